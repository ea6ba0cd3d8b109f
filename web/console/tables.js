// Tables that are brought up to date in place: rows and buttons stay the same elements, so that focus stays where it was.

import { element, write } from "./elements.js";

/**
 * A table. Each column has `head` and either `text(row)` or `build(row)`, which is called anew when `state(row)` has changed;
 * besides `number`, `wrap` and `tone(row)`. The first column names the row.
 */
export class Table {
  constructor(caption, columns, { narrow = "cards", empty = "There are none." } = {}) {
    this.columns = columns;
    this.rows = new Map();
    this.empty = empty;
    const heads = columns.map((column) =>
      element("th", { scope: "col", role: "columnheader", class: column.number ? "number" : "", text: column.head }));
    this.body = element("tbody", { role: "rowgroup" });
    this.caption = element("caption", { text: caption });
    this.table = element("table", { role: "table", class: narrow === "cards" ? "cards-when-narrow" : "" },
      this.caption,
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
      this.body);
    this.nothing = element("p", { class: "quiet", text: empty, hidden: true });
    // What is wider than the page can be scrolled with the keyboard.
    this.scroll = element("div", { class: "scroll", role: "group", "aria-label": caption, tabIndex: 0 }, this.table);
    this.element = element("div", {}, this.scroll, this.nothing);
  }

  /** Shows rows; `name(row)` tells them apart. */
  show(rows, name) {
    const names = rows.map((row) => String(name(row)));
    for (const [known, row] of this.rows) {
      if (!names.includes(known)) {
        row.line.remove();
        this.rows.delete(known);
      }
    }
    rows.forEach((row, at) => {
      const shown = this.rows.get(names[at]) ?? this.add(names[at]);
      this.columns.forEach((column, index) => fill(shown.cells[index], column, row));
      if (this.body.children[at] !== shown.line) this.body.insertBefore(shown.line, this.body.children[at] ?? null);
    });
    this.nothing.hidden = rows.length > 0;
    this.scroll.hidden = rows.length === 0;
  }

  add(name) {
    const cells = this.columns.map((column, at) => element(at === 0 ? "th" : "td", {
      class: [column.number ? "number" : "", column.wrap ? "wrap" : ""].join(" ").trim(),
      role: at === 0 ? "rowheader" : "cell",
      scope: at === 0 ? "row" : undefined,
      "data-head": column.head,
    }));
    const row = { line: element("tr", { role: "row" }, ...cells), cells };
    this.rows.set(name, row);
    return row;
  }
}

function fill(cell, column, row) {
  if (column.tone) {
    const tone = column.tone(row) ?? "";
    for (const word of ["good", "warn", "bad"]) cell.classList.toggle(word, word === tone);
  }
  if (column.text) return write(cell, column.text(row));
  const state = JSON.stringify(column.state(row));
  if (cell.shownState === state) return;
  const hadFocus = cell.contains(document.activeElement);
  cell.shownState = state;
  const built = column.build(row);
  cell.replaceChildren(...(built ? [built] : []));
  cell.classList.toggle("empty", !built);
  if (hadFocus) (cell.querySelector("button") ?? document.getElementById("main")).focus();
}
