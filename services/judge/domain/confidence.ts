/** P(accept) from the log-probabilities of an answer's tokens. */

/** One token of the answer, with what else could have stood in its place. */
export interface TokenLogProbability {
  readonly token: string;
  /** Natural logarithm of the token's probability. */
  readonly logProbability: number;
  readonly alternatives: readonly { readonly token: string; readonly logProbability: number }[];
}

/**
 * Probability that the answer accepts, 0 to 1, or undefined where the tokens do not tell.
 *
 * Looks at the token that begins the value of the key "accept" and compares the probability of all tokens that
 * begin `true` with that of all tokens that begin `false`, so that what else the model might have written (another
 * format, white space) counts for neither.
 */
export function acceptProbability(tokens: readonly TokenLogProbability[]): number | undefined {
  const text = tokens.map((token) => token.token).join('');
  const key = /"accept"\s*:\s*(?=true|false)/g;
  // The last occurrence: the reason, which comes before, may quote the key.
  const match = [...text.matchAll(key)].at(-1);
  if (match === undefined) return undefined;
  const start = match.index + match[0].length;
  let offset = 0;
  for (const token of tokens) {
    const end = offset + token.token.length;
    if (end > start) {
      return fromAlternatives(token, Math.max(0, start - offset));
    }
    offset = end;
  }
  return undefined;
}

function fromAlternatives(token: TokenLogProbability, skip: number): number | undefined {
  let accept = 0;
  let reject = 0;
  const seen = new Set<string>();
  for (const candidate of [token, ...token.alternatives]) {
    if (seen.has(candidate.token)) continue;
    seen.add(candidate.token);
    // The token may begin before the value, with the colon: an alternative must agree up to there. White space is free.
    const before = token.token.slice(0, skip).trim();
    if (!candidate.token.trimStart().startsWith(before)) continue;
    const value = candidate.token.trimStart().slice(before.length).trimStart();
    if (value === '') continue;
    const probability = Math.exp(candidate.logProbability);
    if (value.startsWith('true') || 'true'.startsWith(value)) accept += probability;
    else if (value.startsWith('false') || 'false'.startsWith(value)) reject += probability;
  }
  if (accept + reject === 0) return undefined;
  if (token.alternatives.length === 0) {
    // Without alternatives the rest of the probability is on the other answer, as far as is known.
    return accept > 0 ? Math.min(1, accept) : Math.max(0, 1 - reject);
  }
  return accept / (accept + reject);
}
