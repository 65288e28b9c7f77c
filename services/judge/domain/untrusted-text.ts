/**
 * Text from outside, made safe to stand between two delimiters of a prompt.
 *
 * A caption may hold anything: the closing delimiter, a copy of the system text, control characters, letters that
 * cannot be seen. Escaping makes the delimiter impossible to write; what a model makes of the words inside is then
 * the rubric's business (it says that they are data) and the answer parser's (it accepts one shape only).
 */

/** Delimiters between which a caption stands in the user message. */
export const captionDelimiters = { open: '<caption>', close: '</caption>' } as const;

// Control characters and line breaks, and what changes how text looks or reads without being seen: zero-width and
// bidirectional controls, variation selectors, the tag block (used to smuggle instructions past a reader).
const invisible = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}\p{Default_Ignorable_Code_Point}\uFFF9-\uFFFB]+/gu;

/**
 * Escapes text so that it cannot close the delimiter it is put in.
 *
 * Lone surrogates become U+FFFD, invisible characters and line breaks become one space, and &, < and > become
 * entities. The result is one line without < and >.
 */
export function escapeUntrusted(text: string): string {
  return text
    .toWellFormed()
    .replace(invisible, ' ')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .trim();
}

/** The caption between its delimiters, as it stands in the user message. */
export function delimitCaption(text: string): string {
  return `${captionDelimiters.open}${escapeUntrusted(text)}${captionDelimiters.close}`;
}
