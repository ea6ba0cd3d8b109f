// Elements of the page, and how times and numbers are written.

/** Makes an element. `properties`: `class`, `text`, `on` (listeners by event), properties of the element, else attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "spellcheck") made.setAttribute(name, String(value));
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (name in made && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Sets an element's text if it is another one: what is unchanged is not read out again. */
export function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

let announced = "";

/** Says something to who can't see it. The same words twice are said once. */
export function announce(text) {
  if (text === announced) return;
  announced = text;
  write(document.getElementById("announcer"), text);
}

/** A sentence in place of what is missing, or nothing. */
export function trouble(place, error) {
  const text = error === null ? "" : error.message;
  write(place, text);
  place.hidden = text === "";
}

export function count(number) {
  return number === null || number === undefined ? "–" : number.toLocaleString("en");
}

export function moment(ms) {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? "–" : date.toISOString().replace("T", " ").slice(0, 19) + " UTC";
}

export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = Math.min(units.findIndex(([, size]) => seconds >= size) >>> 0, units.length - 1);
  const [word, size] = units[at];
  const rest = seconds % size;
  const next = units[at + 1];
  const tail = next && rest >= next[1] ? ` ${Math.floor(rest / next[1])} ${next[0]}` : "";
  return `${Math.floor(seconds / size)} ${word}${tail}`;
}

export function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
