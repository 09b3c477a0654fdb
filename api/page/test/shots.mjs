// The photographer: the page and the reference at 1280 and 390 pixels, in both themes, whole and as they open.
//
//   node test/shots.mjs URL FOLDER
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { browser, complaints } from "./browser.mjs";

const [url = "http://127.0.0.1:8000/", folder = "shots"] = process.argv.slice(2);
await mkdir(folder, { recursive: true });
const chromium = await browser();
let wide = 0;
for (const width of [1280, 390]) {
  for (const colorScheme of ["light", "dark"]) {
    const viewport = { width, height: width === 390 ? 844 : 900 };
    const context = await chromium.newContext({ viewport, colorScheme, deviceScaleFactor: width === 390 ? 2 : 1, hasTouch: width === 390 });
    const page = await context.newPage();
    const heard = await complaints(page);
    await page.goto(url);
    await page.locator(".chart canvas").first().waitFor();
    await page.waitForTimeout(8_000);
    const name = (what) => join(folder, `${width}-${colorScheme}-${what}.png`);
    await page.screenshot({ path: name("top") });
    await page.locator(".cm-content").click();
    await page.keyboard.insertText("SELECT source, lag,\n       steam_id\nFROM tidegate.progress");
    await page.keyboard.press("ControlOrMeta+Enter");
    await page.locator(".fault").waitFor();
    await page.screenshot({ path: name("fault") });
    await page.getByRole("button", { name: "newest windows" }).click();
    await page.locator("[data-grid]").waitFor();
    await page.locator(".letters details").first().click();
    await page.evaluate(() => scrollTo(0, 0));
    await page.waitForTimeout(300);
    await page.screenshot({ path: name("whole"), fullPage: true });
    const beyond = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    const over = [await beyond()];
    await page.goto(new URL("/api", url).href);
    await page.locator(".operation").first().waitFor();
    await page.screenshot({ path: name("reference-top") });
    for (const id of ["post-/api/v1/sql", "get-/api/v1/queries/{name}/rows"]) {
      const operation = page.locator(`[id="${id}"]`);
      await operation.locator("> summary").click();
      await operation.getByRole("button", { name: "Send" }).click();
      await operation.locator("[data-answered]").waitFor();
    }
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: name("reference-whole"), fullPage: true });
    over.push(await beyond());
    wide += over.filter((pixels) => pixels > 0).length;
    console.log(JSON.stringify({ width, colorScheme, beyondTheEdge: over, heard }));
    await context.close();
  }
}
await chromium.close();
process.exit(wide === 0 ? 0 : 1);
