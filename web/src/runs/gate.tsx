import type { GateDecision } from '@plumb/proto/plumb/loop/v1/loop_pb.js';

/** What the gate decided, rule by rule, and what a person decided instead. */
export function Gate({
  decision,
  signs,
}: {
  readonly decision: GateDecision;
  readonly signs: readonly string[];
}) {
  const { override } = decision;
  return (
    <section class="card" aria-labelledby="gate">
      <h2 id="gate">
        The gate{' '}
        <span class={`verdict ${decision.promoted ? 'accepted' : 'rejected'}`}>
          {decision.promoted ? 'promoted' : 'refused'}
        </span>
      </h2>
      <ul class="rules">
        {decision.rules.map(({ rule, passed, reason }) => (
          <li key={rule + reason} class={passed ? 'accepted' : 'rejected'}>
            <span class="mark" aria-label={passed ? 'passed' : 'failed'}>
              {passed ? '✓' : '✗'}
            </span>
            <span>
              <b>{rule}</b> {reason}
            </span>
          </li>
        ))}
      </ul>
      {signs.map((sign) => (
        <p class="problem" key={sign}>
          Over-optimisation: {sign}
        </p>
      ))}
      {override !== undefined && (
        <p>
          {override.person} decided otherwise and {override.promoted ? 'promoted' : 'refused'} it:{' '}
          {override.reason}
        </p>
      )}
    </section>
  );
}
