// The lookout: a real Chromium, and everything that it complains about.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

/** CHROMIUM names another one. */
const executablePath = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

export async function browser() {
  if (!executablePath) throw new Error("there is no Chromium: apt-get install -y chromium, or name one in CHROMIUM");
  const args = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
  return chromium.launch({ executablePath, args });
}

/** Notes what a page logs as an error, what it throws, and what its Content-Security-Policy forbids. */
export async function complaints(page) {
  const heard = [];
  page.on("pageerror", (error) => heard.push(`thrown: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() !== "error" && !/Content.Security.Policy/i.test(message.text())) return;
    heard.push(`${message.text()} ${message.location().url}`.trim());
  });
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      console.error(`Content-Security-Policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  return heard;
}

/** What has gone well so far, and how long each took. */
export const steps = [];

export async function step(name, work) {
  const begun = Date.now();
  const seen = await work();
  steps.push({ step: name, ms: Date.now() - begun, ...(seen ? { seen } : {}) });
}

export function must(truth, why) {
  if (!truth) throw new Error(why);
}
