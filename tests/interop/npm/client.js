// mqtt.js, driven by lines of JSON on standard input; says what happens as lines of JSON. See driver.py for both.
// Arguments: where node_modules is, then the settings.
const readline = require('readline')
const mqtt = require(require('path').join(process.argv[2], 'mqtt'))

const settings = JSON.parse(process.argv[3])
const say = (event, rest) => process.stdout.write(JSON.stringify({ event, ...rest }) + '\n')
const five = settings.version === 5

const toWire = (p) => ({
  contentType: p.content_type,
  responseTopic: p.response_topic,
  correlationData: p.correlation === undefined ? undefined : Buffer.from(p.correlation, 'hex'),
  messageExpiryInterval: p.expiry,
  userProperties: p.user === undefined ? undefined : pairs(p.user)
})
const pairs = (list) => {
  const made = {}
  for (const [name, value] of list) (made[name] = made[name] || []).push(value)
  return made
}
const flat = (user) => Object.entries(user || {}).flatMap(([name, value]) => [].concat(value).map((one) => [name, one]))
const fromWire = (p) => ({
  content_type: p.contentType,
  response_topic: p.responseTopic,
  correlation: p.correlationData && p.correlationData.toString('hex'),
  expiry: p.messageExpiryInterval,
  user: flat(p.userProperties)
})

const scheme = { tcp: 'mqtt', tls: 'mqtts' }[settings.transport] || settings.transport
const path = scheme.startsWith('ws') ? '/mqtt' : ''
const options = {
  clientId: settings.id,
  clean: settings.clean,
  protocolVersion: settings.version,
  reconnectPeriod: 50,
  connectTimeout: 5000,
  ca: settings.cafile && require('fs').readFileSync(settings.cafile),
  properties: five && !settings.clean ? { sessionExpiryInterval: 3600 } : undefined
}
if (settings.will) options.will = { ...settings.will, payload: Buffer.from(settings.will.payload, 'hex') }

const client = mqtt.connect(`${scheme}://localhost:${settings.port}${path}`, options)
client.on('connect', (packet) => say('connected', { present: packet.sessionPresent }))
client.on('close', () => say('lost'))
client.on('error', (error) => say('error', { text: String(error) }))
client.on('message', (topic, payload, packet) =>
  say('message', {
    topic,
    payload: payload.toString('hex'),
    qos: packet.qos,
    retain: packet.retain,
    properties: fromWire(packet.properties || {})
  }))

const does = {
  subscribe: ({ filter, qos, no_local }) =>
    client.subscribe(filter, { qos, nl: no_local }, (error, granted) =>
      say('subscribed', { granted: error ? String(error) : granted.map((one) => one.qos) })),
  publish: ({ topic, payload, qos, retain, properties }) =>
    client.publish(topic, Buffer.from(payload, 'hex'), { qos, retain, properties: five ? toWire(properties || {}) : undefined },
      (error) => say('published', { payload, error: error ? String(error) : null })),
  disconnect: () => client.end(false, {}, () => { say('ended'); process.exit(0) })
}
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  does[command.do](command)
})
