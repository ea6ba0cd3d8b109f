// Asking the node. The cookie goes along by itself; no script can read it.

/** What the node refused, as a sentence. `status` 0: it did not answer. */
export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** How long after a key or a click what the page asks counts as asked by a person. */
const PERSON_MS = 10_000;

/** How long an answer may take. */
const ANSWER_MS = 20_000;

let lastInput = -Infinity;
for (const kind of ["keydown", "pointerdown"]) {
  addEventListener(kind, () => { lastInput = performance.now(); }, { passive: true, capture: true });
}

let signedOut = () => {};

/** Calls back when the node no longer knows who asks. */
export function whenSignedOut(callback) {
  signedOut = callback;
}

async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  const message = said.message ?? `The node answered with the status ${response.status}.`;
  const sentence = message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?…]$/.test(message) ? "" : ".");
  return new Refusal(response.status, said.code ?? "unknown", sentence);
}

async function send(method, path, body) {
  const byPerson = performance.now() - lastInput < PERSON_MS;
  const headers = { "X-Muster-Console": byPerson ? "1" : "poll" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(ANSWER_MS),
    });
  } catch {
    throw new Refusal(0, "unreachable", "The node does not answer. It may be stopping, or the way to it is cut. Trying again …");
  }
  return response;
}

/** Asks, and gives the answer's JSON; refusals are thrown. */
export async function ask(method, path, body) {
  const response = await send(method, path, body);
  if (response.ok) return response.status === 204 ? null : response.json();
  const refused = await refusal(response);
  if (refused.status === 401 && refused.code !== "wrong-token") signedOut();
  throw refused;
}

export const get = (path) => ask("GET", path);

/** Whether the node serves; a sentence if not. */
export async function readiness() {
  try {
    await get("/health/ready");
    return null;
  } catch (error) {
    if (error.status === 503) return error.message;
    throw error;
  }
}
