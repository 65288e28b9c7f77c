import { points } from '@plumb/charts/numbers';
import { LabelKind, LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type {
  AgreementRow,
  GetRaterAgreementResponse,
  LabelSession,
} from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { useRoute } from 'preact-iso';
import { useEffect, useState } from 'preact/hooks';
import { errorText, labels } from '../api.ts';
import { Chart } from '../chart.tsx';
import { may } from '../page/caller.ts';
import { Scroll } from '../page/scroll.tsx';
import { useTitle } from '../page/title.ts';
import { RunFrame } from '../runs/run-frame.tsx';
import { useRun } from '../runs/use-run.ts';

/** What people say of a run's clips: sessions, who has done how much, and how far they agree. */
export function Sessions() {
  const id = useRoute().params['id'] ?? '';
  const { run, problem } = useRun(id);
  const [sessions, setSessions] = useState<readonly LabelSession[] | undefined>(undefined);
  const [trouble, setTrouble] = useState('');
  const [turn, setTurn] = useState(0);
  useTitle(`Human labels of ${run?.spec?.name ?? id}`);
  useEffect(() => {
    const abort = new AbortController();
    labels.listLabelSessions({ runId: id, pageSize: 100 }, { signal: abort.signal }).then(
      (page) => setSessions(page.sessions),
      (thrown: unknown) => {
        if (!abort.signal.aborted) setTrouble(errorText(thrown));
      },
    );
    return () => abort.abort();
  }, [id, turn]);
  const again = (): void => setTurn((before) => before + 1);
  return (
    <RunFrame id={id} run={run}>
      {(problem || trouble) !== '' && <p class="problem">{problem || trouble}</p>}
      {sessions?.toReversed().map((session) => (
        <Session key={session.id} session={session} onChange={again} />
      ))}
      {sessions?.length === 0 && (
        <p class="empty">Nobody has been asked yet: there is no session of this run.</p>
      )}
      {may(LabelService.method.createLabelSession) && <NewSession runId={id} onMade={again} />}
    </RunFrame>
  );
}

function Session({ session, onChange }: { readonly session: LabelSession; readonly onChange: () => void }) {
  const [figures, setFigures] = useState<GetRaterAgreementResponse | undefined>(undefined);
  const [link, setLink] = useState('');
  const [problem, setProblem] = useState('');
  const [rater, setRater] = useState('');
  useEffect(() => {
    const abort = new AbortController();
    labels
      .getRaterAgreement({ sessionId: session.id }, { signal: abort.signal })
      .then(setFigures, (thrown: unknown) => {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      });
    return () => abort.abort();
  }, [session]);
  const makeLink = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      const { path } = await labels.createRaterLink({
        sessionId: session.id,
        rater: rater.trim().toLowerCase(),
      });
      setLink(location.origin + path);
      setProblem('');
    } catch (thrown) {
      setProblem(errorText(thrown));
    }
  };
  const heading = `session-${session.id}`;
  return (
    <section class="card" aria-labelledby={heading}>
      <h2 id={heading}>
        {session.name}{' '}
        <small>
          {session.kind === LabelKind.VERDICT ? 'accept or reject' : 'the better of two'}, {session.items}{' '}
          items
          {session.checks > 0 && `, ${session.checks} of them of known truth`}
        </small>
      </h2>
      {problem !== '' && <p class="problem">{problem}</p>}
      <ul class="raters">
        {session.raters.map(({ rater: name, answered, checksAnswered, checksRight }) => (
          <li key={name}>
            <b>{name}</b>
            <span
              class="progress"
              role="progressbar"
              aria-label={`Progress of ${name}`}
              aria-valuemin={0}
              aria-valuemax={session.items}
              aria-valuenow={answered}
            >
              <span style={{ width: `${(answered / Math.max(1, session.items)) * 100}%` }} />
            </span>
            <span class="number">
              {answered} / {session.items}
            </span>
            <small>
              {checksAnswered > 0 && `${checksRight} of ${checksAnswered} checks of attention right`}
            </small>
          </li>
        ))}
      </ul>
      {figures !== undefined && figures.answers > 0 && <Agreement figures={figures} />}
      <form class="inline" onSubmit={(event) => void makeLink(event)}>
        {may(LabelService.method.createRaterLink) && (
          <>
            <label>
              Another rater
              <input
                value={rater}
                required
                pattern="[A-Za-z0-9][A-Za-z0-9._\-]{0,62}"
                placeholder="pseudonym"
                onInput={(event) => setRater(event.currentTarget.value)}
              />
            </label>
            <button type="submit">Make a link</button>
          </>
        )}
        <button type="button" class="quiet" onClick={onChange}>
          Look again
        </button>
      </form>
      {link !== '' && (
        <p class="link-made">
          <input
            readOnly
            value={link}
            aria-label="Link of the rater"
            onFocus={(event) => event.currentTarget.select()}
          />
          <button type="button" onClick={() => void navigator.clipboard.writeText(link)}>
            Copy
          </button>
        </p>
      )}
    </section>
  );
}

function Agreement({ figures }: { readonly figures: GetRaterAgreementResponse }) {
  const { krippendorffAlpha, fleissKappa, fleissItems, items, answers, raters, rewards } = figures;
  return (
    <>
      <dl class="facts">
        <div>
          <dt>Answers</dt>
          <dd>
            {answers}
            <small>{items} items with two and more</small>
          </dd>
        </div>
        <div>
          <dt>Krippendorff’s alpha</dt>
          <dd>{figure(krippendorffAlpha)}</dd>
        </div>
        <div>
          <dt>Fleiss’ kappa</dt>
          <dd>
            {figure(fleissKappa)}
            <small>over {fleissItems} items that all have answered</small>
          </dd>
        </div>
      </dl>
      {raters.length + rewards.length > 0 && (
        <Scroll name="Agreement as a table">
          <table>
            <thead>
              <tr>
                <th scope="col">Against the majority of raters</th>
                <th scope="col">Items</th>
                <th scope="col">Same, %</th>
                <th scope="col">Cohen’s kappa</th>
                <th scope="col">ROC AUC</th>
              </tr>
            </thead>
            <tbody>
              {raters.map((row) => (
                <Row key={`rater ${row.name}`} row={row} kind="rater" />
              ))}
              {rewards.map((row) => (
                <Row key={`reward ${row.name}`} row={row} kind="reward" />
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      <Reliability rewards={rewards} />
    </>
  );
}

/** The reliability diagrams of rewards whose scores are shares. */
function Reliability({ rewards }: { readonly rewards: readonly AgreementRow[] }) {
  const shown = rewards.filter(({ reliability }) => reliability.length > 0);
  if (shown.length === 0) return null;
  return (
    <details>
      <summary>Are scores probabilities? Reliability diagrams</summary>
      <p class="note">
        Share of clips that most raters accept against the score, in ten bins, with 95% intervals; a dot’s
        area is the number of clips. On the diagonal a score is a probability.
      </p>
      <div class="grid halves">
        {shown.map(({ name, reliability, calibrationError }) => (
          <figure key={name}>
            <figcaption>
              <b>{name}</b>, expected calibration error {figure(calibrationError)}
            </figcaption>
            <Chart
              of={[reliability]}
              height={300}
              make={(charts) =>
                charts.reliabilityChart({
                  raw: reliability.map(({ items, ...bin }) => ({ ...bin, count: items })),
                })
              }
            />
          </figure>
        ))}
      </div>
    </details>
  );
}

function Row({ row, kind }: { readonly row: AgreementRow; readonly kind: string }) {
  return (
    <tr>
      <th scope="row">
        {row.name} <small>{kind}</small>
      </th>
      <td>{row.items}</td>
      <td>{points(row.accuracy)}</td>
      <td>{figure(row.kappa)}</td>
      <td>{figure(row.rocAuc)}</td>
    </tr>
  );
}

function NewSession({ runId, onMade }: { readonly runId: string; readonly onMade: () => void }) {
  const [kind, setKind] = useState(LabelKind.VERDICT);
  const [split, setSplit] = useState(Split.HELDOUT);
  const [size, setSize] = useState(100);
  const [name, setName] = useState('Clips');
  const [problem, setProblem] = useState('');
  // Stays until a session is made of it: pressing twice makes one.
  const [key, setKey] = useState(() => crypto.randomUUID());
  const make = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      await labels.createLabelSession({
        runId,
        kind,
        size,
        name,
        split: kind === LabelKind.VERDICT ? split : Split.HELDOUT,
        idempotencyKey: key,
      });
      setKey(crypto.randomUUID());
      setProblem('');
      onMade();
    } catch (thrown) {
      setProblem(errorText(thrown));
    }
  };
  return (
    <section class="card" aria-labelledby="new-session">
      <h2 id="new-session">New session</h2>
      <p class="soft">
        Clips are chosen evenly over models and categories. Raters see neither model nor verdict, each in an
        order of their own. <code>plumb labels open</code> can also mix in clips of known truth.
      </p>
      {problem !== '' && <p class="problem">{problem}</p>}
      <form class="inline" onSubmit={(event) => void make(event)}>
        <label>
          Name
          <input
            value={name}
            maxLength={200}
            required
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <label>
          Question
          <select value={kind} onChange={(event) => setKind(Number(event.currentTarget.value))}>
            <option value={LabelKind.VERDICT}>accept or reject</option>
            <option value={LabelKind.PREFERENCE}>the better of two</option>
          </select>
        </label>
        {kind === LabelKind.VERDICT && (
          <label>
            Prompts
            <select value={split} onChange={(event) => setSplit(Number(event.currentTarget.value))}>
              <option value={Split.HELDOUT}>held out</option>
              <option value={Split.TRAIN}>training, latest iteration</option>
            </select>
          </label>
        )}
        <label class="narrow">
          Items
          <input
            type="number"
            min={1}
            max={5000}
            value={size}
            onInput={(event) => setSize(Number(event.currentTarget.value))}
          />
        </label>
        <button type="submit" class="primary">
          Open
        </button>
      </form>
    </section>
  );
}

function figure(value: number | undefined): string {
  return value === undefined ? '–' : value.toFixed(3);
}
