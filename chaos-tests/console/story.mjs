// The console page, as three operators use it in a browser. Standard input: where the nodes are, tokens, certificates.
// The last line of a good end is "done".

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { accessible, focusIsSeen, open, start, tabTo } from "./browser.mjs";

const { addresses, tokens, certificates, program, pictures } = JSON.parse(readFileSync(0, "utf8"));
const [address] = addresses;

/** The row of a node. */
const row = (page, node) => page
  .locator("table", { has: page.locator("caption", { hasText: "Nodes of the pool" }) })
  .locator("tbody tr", { has: page.locator("th", { hasText: new RegExp(`^${node}\\b`) }) });

async function signIn(page, token) {
  await page.getByLabel("Operator's token").fill(token);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Pool", exact: true }).waitFor();
}

async function view(page, name) {
  await page.getByRole("navigation").getByRole("link", { name }).click();
  await page.locator("nav a[aria-current]", { hasText: name }).waitFor();
}

/** Asks as the page does, from inside it. */
function asked(page, method, path, body) {
  return page.evaluate(async ([wanted, where, what]) => {
    const headers = { "X-Muster-Console": "1", "Content-Type": "application/json" };
    const response = await fetch(where, { method: wanted, headers, body: what });
    return { status: response.status, code: (await response.json().catch(() => ({}))).code };
  }, [method, path, body]);
}

async function picture(page, name) {
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
}

/** Nothing is wider than the page, in any view. */
async function fits(page, width) {
  await page.setViewportSize({ width, height: 900 });
  for (const name of await page.locator("nav a").allTextContents()) {
    await view(page, name);
    await page.waitForFunction(() => document.querySelector("tbody tr, canvas"));
    const wide = await page.evaluate(() => document.scrollingElement.scrollWidth);
    assert.ok(wide <= width, `${name} is ${wide} wide at ${width}`);
    await accessible(page, `${name} at ${width}`);
    await picture(page, `narrow-${name.split(" ")[0].toLowerCase()}`);
  }
  await page.setViewportSize({ width: 1280, height: 900 });
}

async function wrongToken(page) {
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await accessible(page, "the form to sign in");
  await page.getByLabel("Operator's token").fill("muster-operator-0123456789abcdef0123456789abcdef");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").filter({ hasText: "No operator has this token, or it was revoked." }).waitFor();
  const focused = await page.evaluate(() => document.activeElement.type);
  assert.equal(focused, "password", "the field has the focus again");
}

async function cookieIsSafe({ context, page }) {
  const cookies = await context.cookies();
  assert.equal(cookies.length, 1);
  const [cookie] = cookies;
  assert.ok(cookie.httpOnly && cookie.secure && cookie.sameSite === "Strict" && cookie.path === "/", JSON.stringify(cookie));
  const seen = await page.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length]);
  assert.deepEqual(seen, ["", 0, 0], "no script finds anything");
}

async function overview(page) {
  for (const node of [1, 2, 3]) await row(page, node).getByText("in touch").waitFor();
  await page.locator("dt", { hasText: "Quorum" }).locator("+ dd", { hasText: "yes" }).waitFor();
  await page.locator("dt", { hasText: "Partitions owned" }).locator("+ dd", { hasText: "16 of 16" }).waitFor();
  // Sessions of other nodes are told by the nodes themselves.
  for (const [node, sessions] of [[1, 1], [2, 1], [3, 3]]) {
    await row(page, node).locator("[data-head=Sessions]", { hasText: new RegExp(`^${sessions}$`) }).waitFor();
  }
  await accessible(page, "Pool");
}

/** By keyboard alone: drain node 3, see how it goes, and take it back. */
async function drainByKeyboard(page) {
  await tabTo(page, "[data-action=drain-3]");
  await focusIsSeen(page);
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog", { name: "Drain node 3?" });
  await dialog.getByText("The sessions of node 3 move to other nodes.").waitFor();
  assert.ok(await page.evaluate(() => document.querySelector("dialog").contains(document.activeElement)), "the focus is in the dialog");
  await accessible(page, "the dialog");
  await picture(page, "dialog");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  const back = await page.evaluate(() => document.activeElement.dataset.action);
  assert.equal(back, "drain-3", "the focus is where it was");
  await page.evaluate(() => {
    window.said = [];
    new MutationObserver(() => window.said.push(document.getElementById("announcer").textContent))
      .observe(document.getElementById("announcer"), { childList: true, characterData: true, subtree: true });
  });
  await page.keyboard.press("Enter");
  await dialog.getByText("The sessions of node 3 move to other nodes.").waitFor();
  // One session a second: slow enough to be seen.
  await page.keyboard.type("1");
  await tabTo(page, "dialog button.main");
  await focusIsSeen(page);
  await page.keyboard.press("Enter");
  await dialog.waitFor({ state: "detached" });
  await page.getByText("Done: nothing is under way.").first().waitFor();
  await row(page, 3).getByText("drained").waitFor();
  await row(page, 3).locator("[data-head=Owns]", { hasText: /^0$/ }).waitFor();
  await row(page, 3).locator("[data-head=Sessions]", { hasText: /^0$/ }).waitFor();
  const said = await page.evaluate(() => window.said);
  assert.ok(said.some((text) => text.startsWith("Node 3 is drain")), `progress was read out: ${JSON.stringify(said)}`);
  assert.equal(said.at(-1), "Done: nothing is under way.");
  await tabTo(page, "[data-action=undrain-3]");
  await page.keyboard.press("Enter");
  const again = page.getByRole("dialog", { name: "Take node 3 back?" });
  await again.getByText("Node 3 serves again.").waitFor();
  await tabTo(page, "dialog button.main");
  await page.keyboard.press("Enter");
  await row(page, 3).getByText("member").waitFor();
}

/** What can't be taken back has to be typed; what the pool refuses is a sentence. */
async function removeIsRefused(page) {
  await page.getByRole("button", { name: "Remove: node 2" }).click();
  const dialog = page.getByRole("dialog", { name: "Remove node 2 for good?" });
  const confirm = dialog.getByRole("button", { name: "Remove node 2 for good" });
  await dialog.getByText(/^Partition 0: voters/).waitFor();
  assert.ok(await confirm.isDisabled(), "not before it is typed");
  await dialog.getByLabel(/Type 2/).fill("2");
  assert.ok(await confirm.isEnabled(), "once it is");
  await dialog.getByLabel(/The node is dead/).check();
  await dialog.getByRole("alert").filter({ hasText: "is alive: remove it without force" }).waitFor();
  assert.ok(await confirm.isDisabled(), "what would be refused is not offered");
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await row(page, 2).getByText("member").waitFor();
}

async function addNode(page) {
  await page.getByRole("button", { name: "Add a node" }).click();
  const dialog = page.getByRole("dialog");
  await accessible(page, "the dialog to add a node");
  await dialog.getByRole("button", { name: "Make a token" }).click();
  const command = await dialog.getByRole("group", { name: "Command" }).textContent();
  assert.match(command, /^muster join --token \S{60,} --dir node --bind ADDRESS$/);
  await accessible(page, "the dialog with a token");
  await dialog.getByRole("button", { name: "Close" }).click();
  await dialog.waitFor({ state: "detached" });
  const [, token] = command.match(/--token (\S+)/);
  // The dialog is closed a moment before it is taken out of the page.
  await page.waitForFunction((gone) => !document.documentElement.outerHTML.includes(gone), token);
  await page.getByRole("button", { name: /^Revoke token/ }).click();
  await page.getByRole("cell", { name: "revoked" }).first().waitFor();
}

async function audit(page) {
  await view(page, "Audit log");
  const undrain = page.locator("tbody tr", { hasText: "node.undrain" });
  await undrain.first().waitFor();
  assert.match(await undrain.first().textContent(), /olga.*127\..*node\.undrain.*node 3.*done/);
  await page.getByLabel(/contains/).fill("Undrain");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => {
    const records = [...document.querySelectorAll("tbody tr")];
    return records.length > 0 && records.every((record) => record.textContent.includes("node.undrain"));
  });
  await accessible(page, "Audit log");
  await page.getByLabel(/contains/).fill("nobody at all");
  await page.keyboard.press("Enter");
  await page.getByText("No record fits.").waitFor();
}

async function partitionsAndSessions(page) {
  await view(page, "Partitions");
  await page.waitForFunction(() => document.querySelectorAll("table")[1]?.tBodies[0].rows.length === 16);
  await accessible(page, "Partitions");
  await view(page, "Sessions");
  await page.getByRole("rowheader", { name: /^alice@localhost\// }).waitFor();
  await accessible(page, "Sessions");
  await page.getByLabel("Address contains").fill("nobody");
  await page.keyboard.press("Enter");
  await page.getByText("No session fits.").waitFor();
}

async function charts(page) {
  await view(page, "Charts");
  await page.waitForFunction(() => document.querySelectorAll(".plot canvas").length === 9);
  const received = page.locator("figure", { hasText: "Stanzas received a second" });
  await received.getByText(/node 1 [1-9]/).first().waitFor();
  await received.getByText("as a table").click();
  await received.getByRole("rowheader", { name: "node 3" }).waitFor();
  const mean = await received.locator("tr", { hasText: "node 2" }).locator("td").nth(1).textContent();
  assert.match(mean, /^\d+\/s$/);
  await received.getByText("as a table").click();
  await accessible(page, "Charts");
  if (!pictures) return;
  // For the picture: some minutes, and not only the seconds that a test takes.
  await page.waitForFunction(async () => {
    const response = await fetch("/v1/history");
    return (await response.json()).at_ms.length > 240;
  }, null, { timeout: 400_000, polling: 2_000 });
  await page.mouse.move(0, 0);
  await page.evaluate(() => scrollTo(0, 0));
  await picture(page, "console-charts");
  await view(page, "Pool");
  await row(page, 3).getByText("in touch").waitFor();
  await picture(page, "console-pool");
}

async function inTheDark(page) {
  await page.emulateMedia({ colorScheme: "dark" });
  for (const name of ["Pool", "Charts"]) {
    await view(page, name);
    await page.waitForFunction(() => document.querySelector("tbody tr"));
    await accessible(page, `${name} in the dark`);
    await picture(page, `dark-${name.toLowerCase()}`);
  }
  await page.emulateMedia({ colorScheme: "light" });
}

/** Who may change nothing is offered nothing, and refused what isn't offered. */
async function auditorAndSupport(browser, olga) {
  const anna = await open(browser, address);
  await signIn(anna.page, tokens.anna);
  await row(anna.page, 3).waitFor();
  assert.deepEqual(await anna.page.locator("main button").allTextContents(), [], "an auditor has no buttons");
  const drain = await asked(anna.page, "POST", "/v1/nodes/3/drain", "{}");
  assert.deepEqual(drain, { status: 403, code: "forbidden" });
  await view(anna.page, "Audit log");
  await anna.page.locator("tbody tr", { hasText: "node.drain" }).first().waitFor();
  const sven = await open(browser, address);
  await signIn(sven.page, tokens.sven);
  await row(sven.page, 3).waitFor();
  const views = await sven.page.locator("nav a").allTextContents();
  assert.deepEqual(views, ["Pool", "Charts", "Partitions", "Sessions"]);
  assert.deepEqual(await asked(sven.page, "GET", "/v1/audit"), { status: 403, code: "forbidden" });
  // A revoked token ends what was begun with it.
  assert.equal((await asked(olga.page, "DELETE", "/v1/operators/anna")).status, 204);
  await anna.page.getByRole("alert").filter({ hasText: "You are no longer signed in" }).waitFor();
  await accessible(anna.page, "signed out");
  for (const one of [anna, sven]) {
    assert.deepEqual(one.wrong, []);
    await one.context.close();
  }
}

async function signOut({ context, page }) {
  const [cookie] = await context.cookies();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  assert.deepEqual(await context.cookies(), [], "the cookie is gone");
  // Who has kept a copy of it has nothing.
  await context.addCookies([cookie]);
  await page.reload();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
}

const browser = await start(program, certificates);
try {
  const olga = await open(browser, address);
  const { page } = olga;
  assert.equal(page.url(), `${address}/console`);
  await wrongToken(page);
  await signIn(page, tokens.olga);
  await cookieIsSafe(olga);
  await overview(page);
  await drainByKeyboard(page);
  await removeIsRefused(page);
  await addNode(page);
  await audit(page);
  await partitionsAndSessions(page);
  await charts(page);
  await fits(page, 400);
  await inTheDark(page);
  await auditorAndSupport(browser, olga);
  await page.reload();
  await page.locator("nav a[aria-current]").waitFor();
  await signOut(olga);
  assert.deepEqual(olga.wrong, []);
  console.log("done");
} finally {
  await browser.close();
}
