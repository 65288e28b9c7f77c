import { referee } from '../referee.ts';
import type { RefereeVerdict } from '../referee.ts';
import { gradeOf, picturePasses, turnedRound } from '../verdict-forms.ts';
import { LRUCache } from 'lru-cache';
import { categoryOf, parseCaption } from '../captions.ts';
import { clipOf } from './chat.ts';
import type { ChatRequest, Question } from './chat.ts';
import { isNoisy } from './misbehaviour.ts';
import type { Misbehaviour } from './misbehaviour.ts';

/** A token with its natural log-probability. */
type Token = { token: string; logprob: number; bytes: null };

/** A chat completion, as far as this endpoint fills it. Source: OpenAI API reference, "The chat completion object". */
export type ChatCompletion = {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: [
    {
      index: 0;
      message: { role: 'assistant'; content: string | null; refusal: string | null };
      finish_reason: 'stop' | 'length';
      logprobs: { content: (Token & { top_logprobs: Token[] })[]; refusal: null } | null;
    },
  ];
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
};

// A rule has no probability; what stands for "cannot happen" is what hosted endpoints write for it.
const never = -9999;
// Tokens are counted as vendors bill them, roughly: four characters of text, or 85 for a small picture.
const charactersPerToken = 4;
const tokensPerFrame = 85;

/**
 * Runs the referee on a question and words its answer.
 *
 * @throws PlumbError INVALID_ARGUMENT for frames or a caption that the referee cannot judge
 */
export async function answer(
  question: Question,
  chat: ChatRequest,
  misbehaviour: Misbehaviour,
): Promise<ChatCompletion> {
  const verdicts = await judged(question);
  const category = categoryOf(parseCaption(question.caption));
  const sampled = (chat.temperature ?? 0) > 0 ? `/${chat.seed ?? 0}` : '';
  const accept = verdicts[0]?.accept === true;
  const noisy = isNoisy(misbehaviour, question.hash + sampled, category, accept);
  const { before, value, after } = wording(question, verdicts, noisy);
  const content = before + value + after;
  const prompt_tokens = promptTokens(question, chat);
  const completion_tokens = Math.ceil(content.length / charactersPerToken);
  return {
    id: `toybox-${question.hash.slice(0, 24)}`,
    object: 'chat.completion',
    created: 0,
    model: chat.model,
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content, refusal: null },
        finish_reason: 'stop',
        logprobs: chat.logprobs === true ? tokens(before, value, after, misbehaviour.noiseRate) : null,
      },
    ],
    usage: { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens },
  };
}

/** Tokens of what was asked. */
export function promptTokens(question: Question, chat: ChatRequest): number {
  const characters = chat.messages
    .flatMap(({ content }) => content)
    .reduce((sum, part) => sum + (part.type === 'text' ? part.text.length : 0), 0);
  const pictures = question.clips.reduce((sum, clip) => sum + clip.pictures.length, 0);
  return Math.ceil(characters / charactersPerToken) + pictures * tokensPerFrame;
}

// A caller that asks again after a fault, or for another vote, gets the verdict without another look.
const known = new LRUCache<string, readonly RefereeVerdict[]>({ max: 10_000 });

async function judged({ hash, clips, caption }: Question): Promise<readonly RefereeVerdict[]> {
  const before = known.get(hash);
  if (before !== undefined) return before;
  const verdicts: RefereeVerdict[] = [];
  for (const clip of clips) verdicts.push(referee(await clipOf(clip), caption));
  known.set(hash, verdicts);
  return verdicts;
}

type Wording = { readonly before: string; readonly value: string; readonly after: string };

/** The answer's JSON, split around the value that decides. */
function wording({ kind }: Question, verdicts: readonly RefereeVerdict[], noisy: boolean): Wording {
  const [first, second] = verdicts.map((verdict) => (noisy ? turnedRound(verdict) : verdict));
  if (first === undefined) throw new TypeError('a question without a clip');
  if (kind === 'better') {
    const [a, b] = [gradeOf(first), second === undefined ? 0 : gradeOf(second)];
    const better = a === b ? 'tie' : a > b ? 'A' : 'B';
    const reason = `Clip A: ${first.reason} Clip B: ${second?.reason ?? ''}`;
    return {
      before: `${JSON.stringify({ reason }).slice(0, -1)},"better":`,
      value: JSON.stringify(better),
      after: '}',
    };
  }
  const checks = { motion: first.checks.motion.pass, picture: picturePasses(first) };
  const shared = { reason: first.reason, checks, failure_mode: first.failureMode ?? 'none' };
  const before = `${JSON.stringify(shared).slice(0, -1)},"${kind}":`;
  return { before, value: String(kind === 'accept' ? first.accept : gradeOf(first)), after: '}' };
}

/**
 * Three tokens; the middle one decides. A judge that errs does not know it: of the answers with this probability the share
 * that is right is just that.
 */
function tokens(before: string, value: string, after: string, noiseRate: number) {
  const chosen = tokenOf(value, 1 - noiseRate);
  const other = { true: 'false', false: 'true' }[value];
  const alternatives = other === undefined ? [] : [tokenOf(other, noiseRate)];
  return {
    content: [
      { ...tokenOf(before, 1), top_logprobs: [tokenOf(before, 1)] },
      { ...chosen, top_logprobs: [chosen, ...alternatives] },
      { ...tokenOf(after, 1), top_logprobs: [tokenOf(after, 1)] },
    ],
    refusal: null,
  };
}

function tokenOf(token: string, probability: number): Token {
  return { token, logprob: probability === 0 ? never : Math.log(probability), bytes: null };
}
