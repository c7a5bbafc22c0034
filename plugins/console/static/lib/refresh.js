// What is shown is asked for again and again while it can be seen, one question at a time: the less often the longer an answer
// takes, so that a busy broker is not made busier, and after a failure with longer pauses.

import { after } from "./dom.js";

const LONGEST = 15_000;
const SHARE = 5; // a pause is at least so many times as long as the answer took

const seen = (signal) =>
  document.visibilityState === "visible" || signal.aborted
    ? Promise.resolve()
    : new Promise((resolve) => {
        const told = () => {
          if (document.visibilityState !== "visible" && !signal.aborted) return;
          document.removeEventListener("visibilitychange", told);
          signal.removeEventListener("abort", told);
          resolve();
        };
        document.addEventListener("visibilitychange", told);
        signal.addEventListener("abort", told);
      });

// `work` may throw; `failed` is told of the error, and of null once it works again.
export const every = async (milliseconds, signal, work, failed = () => {}) => {
  let pause = milliseconds;
  let wrong = false;
  while (!signal.aborted) {
    const began = performance.now();
    try {
      await work();
      if (wrong) failed(null);
      wrong = false;
      pause = Math.min(LONGEST, Math.max(milliseconds, SHARE * (performance.now() - began)));
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      failed(error);
      wrong = true;
      pause = Math.min(LONGEST, Math.max(milliseconds, pause) * 2);
    }
    await after(pause, signal);
    await seen(signal);
  }
};
