import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ComponentChildren } from 'preact';
import { useLocation } from 'preact-iso';
import { stateWords } from './run-words.ts';

const views = [
  ['', 'Overview'],
  ['/clips', 'Clips'],
  ['/compare', 'Before and after'],
  ['/labels', 'Human labels'],
] as const;

/** The head of every view of a run, and the way from one to the next. */
export function RunFrame(props: {
  readonly id: string;
  readonly run: Run | undefined;
  readonly actions?: ComponentChildren;
  readonly children: ComponentChildren;
}) {
  const { path } = useLocation();
  const { id, run } = props;
  return (
    <>
      <div class="run-head">
        <div>
          <p class="kicker">
            <a href="/">Runs</a> / <span class="mono">{id}</span>
          </p>
          <h1>
            {run === undefined || run.spec?.name === '' ? id : run.spec?.name}
            {run !== undefined && (
              <span class={`state ${stateWords[run.state]}`}>{stateWords[run.state]}</span>
            )}
          </h1>
        </div>
        <div class="actions">{props.actions}</div>
      </div>
      <nav class="tabs" aria-label="Views of the run">
        {views.map(([end, name]) => {
          const href = `/runs/${id}${end}`;
          return (
            <a key={end} href={href} aria-current={path === href ? 'page' : undefined}>
              {name}
            </a>
          );
        })}
      </nav>
      {props.children}
    </>
  );
}
