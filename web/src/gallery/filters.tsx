import { create } from '@bufbuild/protobuf';
import { SampleFilterSchema, Verdict } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, SampleFilter } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Category } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { useEffect, useRef, useState } from 'preact/hooks';
import { isTyping } from '../page/keys.ts';
import { rewardsOf } from './rewards.ts';
import { categoryNames } from './sample-words.ts';

/** The filter as it stands in the address, so that a view can be passed on. */
export type FilterWords = Readonly<Record<(typeof filterKeys)[number], string>>;

const filterKeys = [
  'prompt',
  'category',
  'group',
  'model',
  'verdict',
  'reward',
  'min',
  'max',
  'disagree',
  'iteration',
] as const;

/** The categories by their number, for a choice. */
export const categoryOptions = Object.entries(categoryNames).filter(([key]) => key !== '0');

const verdicts: Readonly<Record<string, Verdict>> = {
  accepted: Verdict.ACCEPTED,
  rejected: Verdict.REJECTED,
  error: Verdict.ERROR,
  pending: Verdict.PENDING,
};

/** Reads the filter out of the query of an address. */
export function filterWords(query: Readonly<Record<string, string>>): FilterWords {
  return Object.fromEntries(filterKeys.map((key) => [key, query[key] ?? ''])) as FilterWords;
}

/** The query of an address with a filter. */
export function filterQuery(words: FilterWords): string {
  const query = new URLSearchParams(Object.entries(words).filter(([, value]) => value !== ''));
  return query.size === 0 ? '' : `?${query.toString()}`;
}

/** The filter as a message. */
export function filterMessage(words: FilterWords): SampleFilter {
  const number = (text: string): number | undefined =>
    text.trim() === '' || !Number.isFinite(Number(text)) ? undefined : Number(text);
  const minimum = number(words.min);
  const maximum = number(words.max);
  const bounded = minimum !== undefined || maximum !== undefined;
  return create(SampleFilterSchema, {
    prompt: words.prompt,
    category: (Number(words.category) || 0) as Category,
    group: words.group,
    modelVersion: words.model,
    verdict: verdicts[words.verdict] ?? Verdict.UNSPECIFIED,
    iteration: number(words.iteration) ?? 0,
    reward: bounded ? words.reward : '',
    ...(minimum === undefined || words.reward === '' ? {} : { minimum }),
    ...(maximum === undefined || words.reward === '' ? {} : { maximum }),
    disagreeingRewards: words.disagree === '' ? [] : words.disagree.split('|'),
  });
}

/** The row of filters above the clips. */
export function Filters(props: {
  readonly run: Run;
  readonly models: readonly string[];
  readonly words: FilterWords;
  readonly onChange: (words: FilterWords) => void;
}) {
  const { run, models, words, onChange } = props;
  const rewards = rewardsOf(run);
  const set = (key: keyof FilterWords, value: string): void => onChange({ ...words, [key]: value });
  const pairs = rewards.flatMap((one, index) =>
    rewards.slice(index + 1).map((other) => [one, other] as const),
  );
  const some = Object.values(words).some((value) => value !== '');
  return (
    <form class="filters" role="search" aria-label="Clips" onSubmit={(event) => event.preventDefault()}>
      <label class="wide">
        Prompt
        <Search value={words.prompt} onChange={(value) => set('prompt', value)} />
      </label>
      <Choice
        name="Verdict"
        value={words.verdict}
        onChange={(value) => set('verdict', value)}
        options={Object.keys(verdicts).map((word) => [word, word])}
      />
      <Choice
        name="Category"
        value={words.category}
        onChange={(value) => set('category', value)}
        options={categoryOptions}
      />
      <Choice
        name="Prompts"
        value={words.group}
        onChange={(value) => set('group', value)}
        options={[
          ['train', 'training'],
          ['before', 'held-out, before'],
          ['after', 'held-out, after'],
        ]}
      />
      {models.length > 1 && (
        <Choice
          name="Model"
          value={words.model}
          onChange={(value) => set('model', value)}
          options={models.map((model) => [model, model])}
        />
      )}
      {run.iteration > 1 && (
        <Choice
          name="Iteration"
          value={words.iteration}
          onChange={(value) => set('iteration', value)}
          options={Array.from({ length: run.iteration }, (_, index) => [
            String(index + 1),
            String(index + 1),
          ])}
        />
      )}
      <Choice
        name="Reward"
        value={words.reward}
        any="none"
        onChange={(value) => set('reward', value)}
        options={rewards.map((reward) => [reward, reward])}
      />
      {words.reward !== '' && (
        <>
          <Bound name="from" value={words.min} onChange={(value) => set('min', value)} />
          <Bound name="to" value={words.max} onChange={(value) => set('max', value)} />
        </>
      )}
      {pairs.length > 0 && (
        <Choice
          name="Disagree"
          value={words.disagree}
          onChange={(value) => set('disagree', value)}
          any="–"
          options={pairs.map(([one, other]) => [`${one}|${other}`, `${one} and ${other}`])}
        />
      )}
      {some && (
        <button type="button" class="quiet" onClick={() => onChange(filterWords({}))}>
          Clear
        </button>
      )}
    </form>
  );
}

/** A list to choose one of, or all. */
export function Choice(props: {
  readonly name: string;
  readonly value: string;
  readonly any?: string;
  readonly options: readonly (readonly [string, string])[];
  readonly onChange: (value: string) => void;
}) {
  return (
    <label>
      {props.name}
      <select value={props.value} onChange={(event) => props.onChange(event.currentTarget.value)}>
        <option value="">{props.any ?? 'all'}</option>
        {props.options.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

function Bound(props: {
  readonly name: string;
  readonly value: string;
  readonly onChange: (value: string) => void;
}) {
  return (
    <label class="narrow">
      {props.name}
      <input
        type="number"
        step="any"
        value={props.value}
        onChange={(event) => props.onChange(event.currentTarget.value)}
      />
    </label>
  );
}

/** Words to look for; waits for a pause in the typing. The key / goes there. */
export function Search(props: { readonly value: string; readonly onChange: (value: string) => void }) {
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState(props.value);
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== '/' || isTyping(event)) return;
      event.preventDefault();
      input.current?.focus();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  useEffect(() => setText(props.value), [props.value]);
  useEffect(() => {
    if (text === props.value) return undefined;
    const timer = setTimeout(() => props.onChange(text), 250);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <input
      ref={input}
      type="search"
      placeholder="words of the prompt  ( / )"
      value={text}
      onInput={(event) => setText(event.currentTarget.value)}
    />
  );
}
