// The console: who is signed in, which view is shown, and when it is brought up to date.

import { ask, get, whenSignedOut } from "./api.js";
import { AuditView } from "./audit.js";
import { ChartsView } from "./charts.js";
import { element, trouble, write } from "./elements.js";
import { PartitionsView } from "./partitions.js";
import { PoolView } from "./pool.js";
import { SessionsView } from "./sessions.js";

/** How often a view is brought up to date while somebody may see it. */
const UPDATED_EVERY_MS = 2_000;

const VIEWS = [
  { name: "pool", title: "Pool", make: (session) => new PoolView(session) },
  { name: "charts", title: "Charts", make: () => new ChartsView() },
  { name: "partitions", title: "Partitions", make: () => new PartitionsView() },
  { name: "sessions", title: "Sessions", make: () => new SessionsView() },
  { name: "audit", title: "Audit log", make: () => new AuditView(), inspects: true },
];

const part = (name) => document.getElementById(name);
const main = part("main");
const problem = part("trouble");
const nav = document.querySelector("nav");

let session = null;
let view = null;
let timer = 0;

function leave() {
  clearTimeout(timer);
  view?.leave?.();
  view?.element.remove();
  view = null;
}

async function update(of) {
  try {
    await of.update();
    if (view === of) trouble(problem, null);
  } catch (error) {
    if (view === of && error.status !== 401) trouble(problem, error);
  }
  if (view !== of) return;
  timer = setTimeout(() => update(of), UPDATED_EVERY_MS);
}

function show(focus) {
  const wanted = location.hash.slice(1);
  const offered = VIEWS.filter((one) => !one.inspects || session.mayInspect);
  const chosen = offered.find((one) => one.name === wanted) ?? offered[0];
  leave();
  trouble(problem, null);
  part("views").replaceChildren(...offered.map((one) => element("li", {}, element("a", {
    href: `#${one.name}`, text: one.title, "aria-current": one === chosen ? "page" : undefined,
  }))));
  view = chosen.make(session);
  main.append(view.element);
  session.view = chosen.title;
  title();
  if (focus) view.element.querySelector("h2").focus();
  update(view);
}

/** What the browser's tab says. */
function title() {
  document.title = [session.view, session.where, "Muster"].filter((word) => word !== "").join(" – ");
}

function signedIn({ name, role }) {
  session = {
    mayOperate: role === "operator",
    mayInspect: role === "operator" || role === "auditor",
    view: "",
    where: "",
  };
  write(part("who-name"), `${name} (${role})`);
  part("who").hidden = false;
  nav.hidden = false;
  show(true);
  whereAmI(session);
}

async function whereAmI(of) {
  try {
    const { domain, node } = await get("/v1/status");
    of.where = `${domain}, node ${node}`;
  } catch {
    // The view says what is wrong.
    return;
  }
  if (session !== of) return;
  write(part("where"), of.where);
  title();
}

function signInForm(sentence) {
  leave();
  session = null;
  nav.hidden = true;
  part("who").hidden = true;
  trouble(problem, null);
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  const said = element("p", { class: "trouble", role: "alert", hidden: true });
  trouble(said, sentence ? { message: sentence } : null);
  const token = element("input", { type: "password", autocomplete: "off", spellcheck: false, required: true, "aria-describedby": "token-hint" });
  const button = element("button", { type: "submit", class: "main", text: "Sign in" });
  const form = element("form", {
    class: "sheet enter",
    on: {
      submit: async (event) => {
        event.preventDefault();
        button.disabled = true;
        try {
          const who = await ask("POST", "/v1/sign-in", { token: token.value.trim() });
          view.element.remove();
          view = null;
          signedIn(who);
        } catch (error) {
          trouble(said, error);
          token.value = "";
          token.focus();
        }
        button.disabled = false;
      },
    },
  }, element("h2", { text: "Sign in" }), said,
  element("label", {}, element("span", { text: "Operator's token" }), token,
    element("span", { id: "token-hint", class: "hint", text: "As muster ctl operator add has shown it, or the one in the node's data folder. You are signed out after half an hour without a key or a click." })),
  element("div", { class: "row" }, button));
  view = { element: form, update: async () => {} };
  main.append(form);
  document.title = "Sign in – Muster";
  token.focus();
}

whenSignedOut(() => {
  if (session !== null) signInForm("You are no longer signed in: your token was revoked, or the page was left alone for too long.");
});

part("sign-out").addEventListener("click", async () => {
  try {
    await ask("DELETE", "/v1/sign-in");
  } catch (error) {
    trouble(problem, error);
    return;
  }
  signInForm("");
});

addEventListener("hashchange", () => {
  if (session !== null && location.hash !== "#main") show(true);
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.visibilityState === "visible" && session !== null && view !== null) update(view);
});

try {
  signedIn(await get("/v1/sign-in"));
} catch (error) {
  signInForm(error.status === 401 ? "" : error.message);
}
