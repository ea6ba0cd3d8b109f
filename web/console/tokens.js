// Letting a node in: a one-time token and the command that uses it; and the tokens that there are.

import { ask, get } from "./api.js";
import { element, moment, trouble, write } from "./elements.js";
import { showDialog } from "./operations.js";
import { Table } from "./tables.js";

const TIMES = [["15 minutes", 900], ["1 hour", 3600], ["1 day", 86400], ["7 days", 604800]];

/** Asks how long the token is to hold, and shows it this once. Calls `made` then. */
export function addNode(made) {
  const problem = element("p", { class: "trouble", role: "alert", hidden: true });
  const time = element("select", {}, ...TIMES.map(([text, value]) => element("option", { value, text, selected: value === 3600 })));
  const addresses = element("input", { type: "text", autocomplete: "off", spellcheck: false, placeholder: "10.0.0.1:7480" });
  const cancel = element("button", { type: "button", text: "Cancel" });
  const confirm = element("button", { type: "submit", class: "main", text: "Make a token" });
  const form = element("form", {
    on: {
      submit: async (event) => {
        event.preventDefault();
        confirm.disabled = true;
        try {
          const wanted = addresses.value.split(/[\s,]+/).filter((word) => word !== "");
          const issued = await ask("POST", "/v1/tokens", { ttl_s: Number(time.value), addresses: wanted });
          show(dialog, issued);
          made();
        } catch (error) {
          trouble(problem, error);
          confirm.disabled = false;
        }
      },
    },
  },
  element("p", { text: "A token lets one new machine join the pool. Whoever has it can be that machine: treat it as a password." }),
  element("label", {}, element("span", { text: "It holds for" }), time),
  element("label", {},
    element("span", { text: "Control ports that the new machine reaches, HOST:PORT with commas (empty: this node's)" }), addresses),
  problem,
  element("div", { class: "row" }, cancel, confirm));
  const dialog = showDialog("Add a node", form);
  cancel.addEventListener("click", () => dialog.close());
}

function show(dialog, issued) {
  const isLoopback = issued.addresses.every((place) => /^(127\.|\[::1\]|localhost)/.test(place));
  const command = `muster join --token ${issued.token} --dir node --bind ADDRESS`;
  const copied = element("span", { class: "quiet", role: "status" });
  const copy = element("button", {
    type: "button", class: "main", text: "Copy the command",
    on: {
      click: async () => {
        try {
          await navigator.clipboard.writeText(command);
          write(copied, "It is copied.");
        } catch {
          write(copied, "The browser does not let this page copy: mark the text yourself.");
        }
      },
    },
  });
  const close = element("button", { type: "button", text: "Close", on: { click: () => dialog.close() } });
  dialog.replaceChildren(element("form", { on: { submit: (event) => event.preventDefault() } },
    element("h2", { id: "dialog-title", text: "Join with this token", tabIndex: -1 }),
    element("p", { text: `It is shown this once, and lets one machine in until ${moment(issued.ends_ms)}. On the new machine, with the address at which the other nodes reach it:` }),
    element("code", { class: "secret", tabIndex: 0, role: "group", "aria-label": "Command", text: command }),
    element("p", { text: "Then start it: muster run --config node/muster.toml" }),
    isLoopback ? element("p", { class: "warn", text: `${issued.addresses.join(", ")} is reached from this machine only: open a tunnel, or name another address.` }) : null,
    element("div", { class: "row" }, copied, copy, close)));
  dialog.querySelector("h2").focus();
}

/** The tokens that let nodes join. */
export class Tokens {
  constructor(session) {
    this.problem = element("p", { class: "trouble", role: "alert", hidden: true });
    const revoke = (token) => element("button", {
      type: "button", text: "Revoke", "aria-label": `Revoke token ${token.id}`,
      on: { click: () => this.revoke(token.id) },
    });
    this.table = new Table("Tokens that let nodes join, without their secrets", [
      { head: "Token", text: (token) => token.id },
      { head: "State", text: (token) => token.state },
      { head: "Node", text: (token) => (token.node === null ? "–" : String(token.node)) },
      { head: "Made by", text: (token) => token.by, wrap: true },
      { head: "Ends", text: (token) => moment(token.ends_ms) },
      ...(session.mayOperate ? [{
        head: "Action",
        state: (token) => token.state,
        build: (token) => (token.state === "open" ? revoke(token) : null),
      }] : []),
    ], { empty: "There are no tokens." });
    this.element = element("section", { class: "sheet", "aria-labelledby": "tokens-title" },
      element("h3", { id: "tokens-title", text: "Join tokens" }), this.problem, this.table.element);
  }

  async update() {
    const { tokens } = await get("/v1/tokens");
    this.table.show(tokens, (token) => token.id);
  }

  async revoke(id) {
    try {
      await ask("DELETE", `/v1/tokens/${encodeURIComponent(id)}`);
      trouble(this.problem, null);
      await this.update();
    } catch (error) {
      trouble(this.problem, error);
    }
  }
}
