import type { Report, Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useEffect, useRef, useState } from 'preact/hooks';
import { errorText, loop } from '../api.ts';
import { useStream } from '../page/live.ts';

/** Shortest time between two values of `progress`, in milliseconds: what reads samples reads pages of them. */
const progressMs = 1_500;

/** A run as it goes on, for views of its clips. */
export function useRun(id: string): {
  readonly run: Run | undefined;
  /** Those that its clips are of. */
  readonly models: readonly string[];
  /** Changes when samples have: read them again. */
  readonly progress: string;
  readonly problem: string;
} {
  const [run, setRun] = useState<Run | undefined>(undefined);
  const [models, setModels] = useState<readonly string[]>([]);
  const [problem, setProblem] = useState('');
  useStream(
    id,
    (signal) => loop.watchRun({ id }, { signal }),
    ({ run: next }) => {
      if (next !== undefined) setRun(next);
    },
    setProblem,
  );
  const stage = run === undefined ? undefined : `${run.iteration} ${run.stage} ${run.state}`;
  useEffect(() => {
    if (stage === undefined) return undefined;
    const abort = new AbortController();
    loop.getReport({ runId: id }, { signal: abort.signal }).then(
      ({ report }) => setModels(modelsOf(report)),
      (thrown: unknown) => {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      },
    );
    return () => abort.abort();
  }, [id, stage]);
  const { planned, generated, scored, errors } = run?.counts ?? {};
  return {
    run,
    models,
    progress: useThrottled(`${run?.iteration} ${planned} ${generated} ${scored} ${errors}`),
    problem,
  };
}

function modelsOf(report: Report | undefined): readonly string[] {
  const named = (report?.iterations ?? []).flatMap(({ beforeVersion, afterVersion }) => [
    beforeVersion,
    afterVersion,
  ]);
  return [...new Set(named)].filter((model) => model !== '');
}

/** A value that follows another, at most so often. */
function useThrottled(value: string): string {
  const [shown, setShown] = useState(value);
  const lastAt = useRef(-Infinity);
  useEffect(() => {
    if (value === shown) return undefined;
    const show = (): void => {
      lastAt.current = performance.now();
      setShown(value);
    };
    const timer = setTimeout(show, Math.max(0, lastAt.current + progressMs - performance.now()));
    return () => clearTimeout(timer);
  }, [value, shown]);
  return shown;
}
