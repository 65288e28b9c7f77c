import type { CategoryId, Prompt, PromptSet } from './prompt-set.ts';
import { categoryIds } from './prompt-set.ts';

/** Something about a prompt set that a person should look at. Errors of its form are refused when it is read. */
export interface PromptFinding {
  readonly kind: 'near-duplicate' | 'leak' | 'unbalanced' | 'few-heldout' | 'missing-category' | 'long';
  readonly message: string;
}

export interface CheckPromptsOptions {
  /** Likeness of two texts from which they count as nearly the same, 0 to 1: share of words and word pairs in common; 0.85 unless given. */
  readonly likeness?: number;
  /** Most words of a prompt; 40 unless given: text encoders cut what is longer (CLIP's at 77 tokens). */
  readonly words?: number;
}

/** Fewer held-out prompts in a category give intervals too wide to judge by. */
const fewHeldout = 4;
/** The largest category may have this many times the prompts of the smallest. */
const balance = 2;

/** Words that carry no picture: two prompts that differ in these alone ask for the same clip. */
const emptyWords = new Set(['a', 'an', 'the', 'of', 'to', 'it', 'its', 'that', 'so', 'and', 'is', 'are', 'some', 'one']);

/** The words of a text that carry the picture, in their order. */
function wordsOf(text: string): string[] {
  return (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).filter((word) => !emptyWords.has(word));
}

/**
 * Looks for prompts that are nearly the same (after case, punctuation and filler words are taken away), within a split
 * and, worse, across the two; categories that are missing, unbalanced or hardly held out; and texts that encoders would cut.
 */
export function checkPrompts(
  set: Pick<PromptSet, 'prompts'>,
  options: CheckPromptsOptions = {},
): PromptFinding[] {
  const { likeness = 0.85, words: mostWords = 40 } = options;
  return [...nearDuplicates(set.prompts, likeness), ...categoryFindings(set.prompts), ...longTexts(set.prompts, mostWords)];
}

function* nearDuplicates(prompts: readonly Prompt[], likeness: number): Generator<PromptFinding> {
  const texts = prompts.map(({ text }) => wordsOf(text));
  // Only prompts that share a word can be alike: an index keeps large sets quick.
  const byWord = new Map<string, number[]>();
  for (const [index, words] of texts.entries()) {
    const prompt = prompts[index];
    const candidates = new Set([...words].flatMap((word) => byWord.get(word) ?? []));
    for (const other of [...candidates].toSorted((a, b) => a - b)) {
      const twin = prompts[other];
      const twinWords = texts[other];
      if (prompt === undefined || twin === undefined || twinWords === undefined) continue;
      const found = alike(words, twinWords);
      if (found < likeness) continue;
      const leak = twin.split !== prompt.split;
      yield {
        kind: leak ? 'leak' : 'near-duplicate',
        message:
          `${prompt.id} ("${shortened(prompt.text)}") is nearly the same as ${twin.id} ("${shortened(twin.text)}"), ` +
          (leak
            ? 'which is in the other split: a held-out prompt would be trained on; change or remove one'
            : 'in the same split; change or remove one'),
      };
    }
    for (const word of new Set(words)) {
      const list = byWord.get(word);
      if (list === undefined) byWord.set(word, [index]);
      else list.push(index);
    }
  }
}

/** Sørensen and Dice's coefficient over words and pairs of neighbours: the same words in another order are another scene. */
function alike(a: readonly string[], b: readonly string[]): number {
  const left = piecesOf(a);
  const right = piecesOf(b);
  if (left.length + right.length === 0) return 1;
  const open = new Map<string, number>();
  for (const piece of left) open.set(piece, (open.get(piece) ?? 0) + 1);
  let common = 0;
  for (const piece of right) {
    const count = open.get(piece) ?? 0;
    if (count === 0) continue;
    open.set(piece, count - 1);
    common += 1;
  }
  return (2 * common) / (left.length + right.length);
}

function piecesOf(words: readonly string[]): string[] {
  return [...words, ...words.slice(1).map((word, index) => `${words[index] ?? ''} ${word}`)];
}

function* categoryFindings(prompts: readonly Prompt[]): Generator<PromptFinding> {
  for (const split of ['train', 'heldout'] as const) {
    const counts = new Map<CategoryId, number>();
    for (const prompt of prompts) {
      if (prompt.split === split) counts.set(prompt.category, (counts.get(prompt.category) ?? 0) + 1);
    }
    const entries = [...counts].toSorted(([, a], [, b]) => a - b);
    const [smallest, largest] = [entries[0], entries.at(-1)];
    if (smallest !== undefined && largest !== undefined && largest[1] > balance * smallest[1]) {
      yield {
        kind: 'unbalanced',
        message: `${split}: ${largest[0]} has ${largest[1]} prompts and ${smallest[0]} ${smallest[1]}; overall figures would mostly tell of ${largest[0]}`,
      };
    }
    if (split === 'train') continue;
    for (const [category, count] of entries) {
      if (count >= fewHeldout) continue;
      yield {
        kind: 'few-heldout',
        message: `${category} has ${count} held-out prompts; hold at least ${fewHeldout} back, or its intervals say little`,
      };
    }
  }
  const present = new Set(prompts.map(({ category }) => category));
  for (const category of categoryIds) {
    if (present.has(category)) continue;
    yield { kind: 'missing-category', message: `${category} has no prompt; nothing will be known of it` };
  }
}

function* longTexts(prompts: readonly Prompt[], mostWords: number): Generator<PromptFinding> {
  for (const { id, text } of prompts) {
    const count = text.trim().split(/\s+/).length;
    if (count > mostWords) {
      yield { kind: 'long', message: `${id} has ${count} words; text encoders cut what is longer than about ${mostWords}` };
    }
  }
}

function shortened(text: string): string {
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}
