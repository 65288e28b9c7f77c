/**
 * JSON as Python writes it: infinities and NaN stand bare, which JSON does not have. They become the strings `Infinity`,
 * `-Infinity` and `NaN`.
 * @throws SyntaxError for text that is not JSON otherwise
 */
export function parseDiffusersJson(text: string): unknown {
  return JSON.parse(
    text.replaceAll(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (found) =>
      found.startsWith('"') ? found : `"${found}"`,
    ),
  ) as unknown;
}
