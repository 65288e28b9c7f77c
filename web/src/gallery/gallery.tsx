import type { Sample } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useLocation, useRoute } from 'preact-iso';
import { useEffect, useReducer, useState } from 'preact/hooks';
import { errorText } from '../api.ts';
import { useTitle } from '../page/title.ts';
import { RunFrame } from '../runs/run-frame.tsx';
import { count } from '../runs/run-words.ts';
import { useRun } from '../runs/use-run.ts';
import { filterMessage, filterQuery, Filters, filterWords } from './filters.tsx';
import type { FilterWords } from './filters.tsx';
import { SamplePages } from './sample-pages.ts';
import { SamplePanel } from './sample-panel.tsx';
import { TileGrid } from './tile-grid.tsx';

/** All clips of a run, playing. */
export function Gallery() {
  const id = useRoute().params['id'] ?? '';
  const { query, route, path } = useLocation();
  const { run, models, progress, problem } = useRun(id);
  const words = filterWords(query);
  const key = JSON.stringify(words);
  const [, changed] = useReducer((turn: number) => turn + 1, 0);
  const [pages, setPages] = useState<SamplePages | undefined>(undefined);
  useTitle(`Clips of ${run?.spec?.name ?? id}`);
  useEffect(() => {
    const made = new SamplePages(id, filterMessage(words), () => changed(undefined));
    setPages(made);
    return () => made.close();
  }, [id, key]);
  useEffect(() => pages?.refresh(), [progress]);
  const go = (next: FilterWords, sample?: string): void => {
    const filter = filterQuery(next);
    route(
      sample === undefined
        ? `${path}${filter}`
        : `${path}${filter}${filter === '' ? '?' : '&'}sample=${sample}`,
      true,
    );
  };
  const reward = run?.spec?.evaluation?.reward ?? '';
  const sampleId = query['sample'] ?? '';
  const trouble = problem === '' && pages?.problem !== undefined ? errorText(pages.problem) : problem;
  return (
    <RunFrame id={id} run={run}>
      {trouble !== '' && <p class="problem">{trouble}</p>}
      {run !== undefined && <Filters run={run} models={models} words={words} onChange={(next) => go(next)} />}
      <p class="soft shown" role="status">
        {pages?.total === undefined ? 'Looking …' : `${count(pages.total)} clips`}
      </p>
      <div class={sampleId === '' ? 'gallery' : 'gallery open'}>
        {pages?.total !== undefined && pages.total > 0 && (
          <TileGrid
            key={key}
            pages={pages}
            total={pages.total}
            reward={reward}
            onOpen={(sample: Sample) => go(words, sample.id)}
          />
        )}
        {sampleId !== '' && (
          <SamplePanel key={sampleId} id={sampleId} reward={reward} onClose={() => go(words)} />
        )}
      </div>
    </RunFrame>
  );
}
