// Sessions: how many each node has, and the addresses of those of the node that is asked, a page at a time.

import { get } from "./api.js";
import { count, element, trouble, write } from "./elements.js";
import { Table } from "./tables.js";

const PAGE = 50;

export class SessionsView {
  constructor() {
    this.before = [];
    this.after = "";
    this.counts = new Table("Sessions of each node", [
      { head: "Node", text: (node) => String(node.id) },
      { head: "State", text: (node) => node.state },
      { head: "Sessions", number: true, text: (node) => count(node.sessions) },
    ]);
    this.list = new Table("Sessions of this node, by address", [{ head: "Address", text: (address) => address, wrap: true }],
      { empty: "No session fits." });
    this.containing = element("input", { type: "search", autocomplete: "off", spellcheck: false, maxLength: 128 });
    this.problem = element("p", { class: "trouble", role: "alert", hidden: true });
    this.said = element("p", { class: "quiet", role: "status" });
    this.newer = element("button", { type: "button", text: "Previous page", on: { click: () => this.turn(this.before.pop() ?? "") } });
    this.older = element("button", {
      type: "button", text: "Next page",
      on: { click: () => { this.before.push(this.after); this.turn(this.next); } },
    });
    const form = element("form", {
      class: "row", role: "search",
      on: { submit: (event) => { event.preventDefault(); this.before = []; this.turn(""); } },
    }, element("label", {}, element("span", { text: "Address contains" }), this.containing),
    element("button", { type: "submit", class: "main", text: "Search" }));
    this.element = element("section", { "aria-labelledby": "sessions-title" },
      element("h2", { id: "sessions-title", tabIndex: -1, text: "Sessions" }),
      element("div", { class: "sheet" }, this.counts.element),
      element("div", { class: "sheet" }, form, this.problem, this.said, this.list.element,
        element("div", { class: "row" }, this.newer, this.older)));
  }

  async update() {
    const { nodes } = await get("/v1/nodes");
    this.counts.show(nodes.filter((node) => node.state !== "removed"), (node) => node.id);
    // What somebody reads is not turned under their eyes: only the first page follows.
    if (this.after === "") await this.turn("");
  }

  async turn(after) {
    try {
      const query = new URLSearchParams({ limit: PAGE });
      if (after !== "") query.set("after", after);
      if (this.containing.value !== "") query.set("containing", this.containing.value);
      const page = await get(`/v1/sessions?${query}`);
      this.after = after;
      this.next = page.next;
      this.list.show(page.sessions, (address) => address);
      this.newer.disabled = after === "";
      this.older.disabled = page.next === null;
      const shown = page.sessions.length;
      write(this.said, `Node ${page.node} has ${count(page.total)} ${page.total === 1 ? "session" : "sessions"}; ${count(shown)} ${shown === 1 ? "is" : "are"} on this page. Those of other nodes are listed by their own console.`);
      trouble(this.problem, null);
    } catch (error) {
      trouble(this.problem, error);
    }
  }
}
