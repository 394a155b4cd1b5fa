/** Requests to the service: the API key, retries of refused requests, and problem details. */

const MAX_RETRIES = 5;
const RETRIED = new Set([429, 503]);
const KEY = "vae-key";
/** The address of the service, perhaps with a prefix of a proxy: this file is in /web/<digest>/. */
const SERVICE = new URL("../../", import.meta.url);

/** An error that the service or the network reports: `title`, `detail`, `status` (0 without a response). */
export class Problem extends Error {
  constructor({ title, detail, status = 0, request_id: requestId = "" }) {
    super(detail);
    Object.assign(this, { title, detail, status, requestId });
  }
}

/**
 * The service that the page comes from.
 *
 * `askForKey(isRefused)` returns a promise of a key, or of null, when a request gets 401. The event `answered` has the
 * method, path, status, times and model of a response.
 */
export class Api extends EventTarget {
  #askForKey;
  #asking = null;

  constructor(askForKey) {
    super();
    this.#askForKey = askForKey;
  }

  /** The API key, kept until the tab is closed. */
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  set key(key) {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  }

  /** Return the address of a path. */
  url(path, query = {}) {
    const url = new URL(path, SERVICE);
    for (const [name, value] of Object.entries(query)) if (value != null) url.searchParams.set(name, value);
    return url;
  }

  /**
   * Send a request and return the response. Requests that get 429 or 503 are sent again after `Retry-After`;
   * `waiting(problem, seconds)` is called before. Other errors raise `Problem`.
   */
  async call(path, { query, body, type, accept = "application/json", signal, waiting = () => {} } = {}) {
    for (let attempt = 0; ; attempt += 1) {
      const used = this.key;
      const response = await this.#send(this.url(path, query), { body, type, accept, signal });
      if (response.ok) return response;
      const problem = await problemOf(response);
      if (response.status === 401 && (await this.#keyAfter(used))) continue;
      if (!RETRIED.has(response.status) || attempt === MAX_RETRIES) throw problem;
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      waiting(problem, seconds, attempt + 1, MAX_RETRIES);
      await pause(seconds, signal);
    }
  }

  async #send(url, { body, type, accept, signal }) {
    const headers = { Accept: accept };
    if (type) headers["Content-Type"] = type;
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    const method = body === undefined ? "GET" : "POST";
    const start = performance.now();
    try {
      const response = await fetch(url, { method, headers, body, signal, cache: "no-store" });
      this.#tell(method, url, response, performance.now() - start);
      return response;
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem({ title: "No connection", detail: `${url.host} does not respond: ${error.message}` });
    }
  }

  #tell(method, url, response, milliseconds) {
    const timing = response.headers.get("Server-Timing") ?? "";
    const model = decodeURIComponent(response.headers.get("X-Model") ?? "");
    const detail = { method, target: url.pathname + url.search, status: response.status, milliseconds, timing, model };
    this.dispatchEvent(new CustomEvent("answered", { detail }));
  }

  /** Ask once for all requests that were refused with the same key; returns whether there is another key. */
  async #keyAfter(used) {
    if (this.key !== used) return true;
    this.#asking ??= this.#askForKey(Boolean(used)).finally(() => (this.#asking = null));
    const key = await this.#asking;
    if (key) this.key = key;
    return Boolean(key);
  }
}

async function problemOf(response) {
  try {
    return new Problem(await response.json());
  } catch {
    const detail = `the response has the status ${response.status} and no problem details`;
    return new Problem({ title: response.statusText || "Error", detail, status: response.status });
  }
}

/** Wait; an aborted signal ends it with an error. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
