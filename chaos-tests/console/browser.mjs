// A headless Chromium that trusts the nodes' keys and nothing else, and what is checked on every page.

import { createHash, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** How long anything may take that a healthy pool does at once; tests share two cores. */
export const LIMIT_MS = 30_000;

/** The hash of a certificate's key, as Chromium's flag wants it. */
function keyHash(file) {
  const key = new X509Certificate(readFileSync(file)).publicKey;
  return createHash("sha256").update(key.export({ type: "spki", format: "der" })).digest("base64");
}

/** Starts a browser in a folder of its own, empty, that it removes at its end. */
export function start(program, certificates) {
  return chromium.launch({
    executablePath: program,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      `--ignore-certificate-errors-spki-list=${certificates.map(keyHash).join(",")}`,
    ],
  });
}

/** A page in a context of its own, with all that went wrong on it. */
export async function open(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(LIMIT_MS);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error.stack}`));
  page.on("console", (message) => {
    // The browser reports refusals that the page asked for; the page shows them as sentences, which the story looks at.
    // While partitions change hands the node says of itself that it is not ready: 503.
    const [, status] = message.text().match(/^Failed to load resource: the server responded with a status of (\d+)/) ?? [];
    const isRefusal = ["401", "403", "409"].includes(status) || (status === "503" && message.location().url.endsWith("/health/ready"));
    if (["error", "warning"].includes(message.type()) && !isRefusal) wrong.push(`${message.type()}: ${message.text()}`);
  });
  page.on("requestfailed", (request) => {
    const why = request.failure()?.errorText;
    // A page that goes away gives its requests up.
    if (why !== "net::ERR_ABORTED") wrong.push(`failed: ${request.url()} ${why}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(`${address}/`)) wrong.push(`asked elsewhere: ${request.url()}`);
  });
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  await page.goto(`${address}/`);
  return { context, page, wrong };
}

/** Nothing serious for people who can't see, hear or use a mouse, by axe-core's rules of WCAG 2.2 AA and good practice. */
export async function accessible(page, where) {
  await page.evaluate(`${axe}; undefined`);
  const { violations } = await page.evaluate(() => axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  const serious = violations.filter(({ impact }) => ["moderate", "serious", "critical"].includes(impact));
  const said = serious.map(({ id, help, nodes }) => `${id}: ${help}\n  ${nodes.map((node) => node.html).join("\n  ")}`);
  assert.equal(said.join("\n"), "", `${where}: axe-core`);
}

/** Presses Tab until an element has the focus, as somebody does who has no mouse. */
export async function tabTo(page, selector) {
  const TABS_MAX = 80;
  for (let tabs = 0; tabs < TABS_MAX; tabs += 1) {
    if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`${selector} is not reached with Tab`);
}

/** Focus can be seen: an outline around what has it. */
export async function focusIsSeen(page) {
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "the focus is seen");
}
