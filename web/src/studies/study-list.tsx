import type { StudySummary } from '@plumb/proto/plumb/loop/v1/study_pb.js';
import { useEffect, useState } from 'preact/hooks';
import { errorText, studies } from '../api.ts';
import { useTitle } from '../page/title.ts';
import { count } from '../runs/run-words.ts';

const pageSize = 200;

/** The studies that have run to their end, with their answers. */
export function StudyList() {
  useTitle('Studies');
  const [found, setFound] = useState<readonly StudySummary[] | undefined>(undefined);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    const abort = new AbortController();
    void (async () => {
      try {
        const all: StudySummary[] = [];
        let pageToken = '';
        do {
          const page = await studies.listStudies({ pageSize, pageToken }, { signal: abort.signal });
          all.push(...page.studies);
          pageToken = page.nextPageToken;
        } while (pageToken !== '');
        setFound(all);
      } catch (thrown) {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      }
    })();
    return () => abort.abort();
  }, []);
  return (
    <section aria-labelledby="studies">
      <h1 id="studies">Studies</h1>
      {problem !== '' && <p class="problem">{problem}</p>}
      {found === undefined && problem === '' && <p class="empty">Looking …</p>}
      {found?.length === 0 && (
        <p class="empty">
          No study has run to its end. <code>plumb study run studies/small.yaml</code> runs one.
        </p>
      )}
      <ul class="run-list">
        {found?.map(({ name, headline, cells }) => (
          <li key={name}>
            <a class="study-row card" href={`/studies/${name}`}>
              <b>{name}</b>
              <span>{headline}.</span>
              <small>{count(cells)} trainings</small>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}
