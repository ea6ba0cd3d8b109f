// The audit log: who changed what, when, from where, and what became of it.

import { get } from "./api.js";
import { element, moment, trouble, write } from "./elements.js";
import { Table } from "./tables.js";

const PAGE = 50;

export class AuditView {
  constructor() {
    this.where = "";
    this.table = new Table("What operators changed, newest first", [
      { head: "Number", text: (record) => String(record.number) },
      { head: "When", text: (record) => moment(record.at_ms) },
      { head: "Who", text: (record) => record.who, wrap: true },
      { head: "From", text: (record) => record.from, wrap: true },
      { head: "Node", text: (record) => String(record.node) },
      { head: "What", text: (record) => record.action },
      { head: "About", text: (record) => record.target, wrap: true },
      { head: "Outcome", text: (record) => record.outcome, tone: (record) => ({ done: "good", unknown: "warn" })[record.outcome] ?? "bad" },
    ], { empty: "No record fits." });
    this.containing = element("input", { type: "search", autocomplete: "off", spellcheck: false, maxLength: 128 });
    this.problem = element("p", { class: "trouble", role: "alert", hidden: true });
    this.said = element("p", { class: "quiet", role: "status" });
    this.newest = element("button", { type: "button", text: "Newest", on: { click: () => this.turn("") } });
    this.newer = element("button", { type: "button", text: "Newer", on: { click: () => this.turn(`after=${this.next}`) } });
    this.older = element("button", { type: "button", text: "Older", on: { click: () => this.turn(`before=${this.previous}`) } });
    const form = element("form", {
      class: "row", role: "search",
      on: { submit: (event) => { event.preventDefault(); this.turn(""); } },
    }, element("label", {}, element("span", { text: "Who, what, about or outcome contains" }), this.containing),
    element("button", { type: "submit", class: "main", text: "Search" }));
    this.element = element("section", { "aria-labelledby": "audit-title" },
      element("h2", { id: "audit-title", tabIndex: -1, text: "Audit log" }),
      element("div", { class: "sheet" }, form, this.problem, this.said, this.table.element,
        element("div", { class: "row" }, this.newest, this.newer, this.older)));
  }

  async update() {
    if (this.where === "") await this.turn("");
  }

  async turn(where) {
    try {
      const query = new URLSearchParams(where);
      query.set("limit", PAGE);
      if (this.containing.value !== "") query.set("containing", this.containing.value);
      const page = await get(`/v1/audit?${query}`);
      this.where = where;
      this.previous = page.previous;
      this.next = page.next;
      const records = [...page.records].reverse();
      this.table.show(records, (record) => record.number);
      this.newest.disabled = where === "";
      this.newer.disabled = page.next === null;
      this.older.disabled = page.previous === null;
      write(this.said, records.length === 0 ? "" : `Records ${records.at(-1).number} to ${records[0].number}.`);
      trouble(this.problem, null);
    } catch (error) {
      trouble(this.problem, error);
    }
  }
}
