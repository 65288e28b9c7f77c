/*
 * The token of a link stands behind the `#`: browsers send that part to nobody. It moves into the browser's storage at once,
 * so that the address bar, the history and whoever looks over a shoulder do not have it. A rater's token is kept apart: who
 * opens a rater's link to see how it looks stays signed in as before.
 */
const storageKey = location.pathname.startsWith('/rate') ? 'plumb.rater-token' : 'plumb.token';

let token: string | undefined;

/** Takes the token out of the address, if there is one. Call it before anything else. */
export function takeToken(): void {
  const given = /^#token=([\w.-]{1,4096})$/.exec(location.hash)?.[1];
  if (given !== undefined) {
    keepToken(given);
    history.replaceState(null, '', location.pathname + location.search);
  }
  token ??= localStorage.getItem(storageKey) ?? undefined;
}

/** The token to show; undefined where a proxy shows who calls. */
export function storedToken(): string | undefined {
  return token;
}

export function keepToken(given: string): void {
  token = given;
  localStorage.setItem(storageKey, given);
}
