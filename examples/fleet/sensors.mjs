// Sensors that lose no reading: each keeps its readings in a file until the broker has them, whatever happens to the network, the
// broker, or the sensor itself. `node sensors.mjs mqtt://localhost:1883`, where tideline-client is installed (README.md).
// Environment: FOLDER for the files, INTERVAL between two readings in ms.

import { join } from "node:path";

import { Client } from "tideline-client";
import { FileStore } from "tideline-client/file";

const ROOMS = ["kitchen", "hall", "attic", "cellar"];
const broker = process.argv[2] ?? "mqtt://localhost:1883";
const { FOLDER = ".", INTERVAL = "5000" } = process.env;

const sensor = async (room) => {
  const client = new Client(broker, { device: `sensor-${room}`, store: new FileStore(join(FOLDER, `sensor-${room}.log`)) });
  await client.start();
  let temperature = 20;
  setInterval(async () => {
    temperature += Math.random() - 0.5;
    const reading = { temperature: Number(temperature.toFixed(2)), time: new Date().toISOString() };
    await client.send(`home/${room}/climate`, JSON.stringify(reading));
    console.log(room, reading.temperature, `${(await client.outbox()).length} wait`);
  }, Number(INTERVAL));
};

await Promise.all(ROOMS.map(sensor));
