/** What judging does, as metrics and log lines. */

import { describeError } from '@plumb/kit/errors';
import { logger, meter } from '@plumb/kit/telemetry';
import type { EndpointState } from '@plumb/endpoint';
import type { JudgingEvents } from '../domain/judging.ts';

/** What is told besides the events of judging. */
export interface JudgeTelemetry extends JudgingEvents {
  readonly endpointChanged: (endpoint: string, state: EndpointState) => void;
  readonly accountFailed: (error: unknown) => void;
  /** An endpoint is there, and nothing is known against it. */
  readonly endpointOpened: (endpoint: string) => void;
}

/**
 * Events of judging go to counters, and faults to the log. The keys of endpoints are nowhere near.
 *
 * @param currency Of the costs, as a label.
 */
export function judgingTelemetry(currency: string): JudgeTelemetry {
  const log = logger('judging');
  const instruments = meter('@plumb/judge-service');
  const verdicts = instruments.createCounter('plumb.judge.verdicts', {
    description: 'Verdicts given, by judge and by where they came from: memory, store or endpoint',
    unit: '{verdict}',
  });
  const faults = instruments.createCounter('plumb.judge.faults', {
    description: 'Failed calls to endpoints, by judge and kind; most are followed by another call',
    unit: '{fault}',
  });
  const storeFailures = instruments.createCounter('plumb.judge.store.failures', {
    description: 'Reads and writes of the verdict store that failed; the verdict itself is not affected',
    unit: '{operation}',
  });
  const tokens = instruments.createCounter('plumb.judge.tokens', {
    description: 'Tokens that were booked, by judge, type, and whether by the estimate or by the endpoint',
    unit: '{token}',
  });
  const costs = instruments.createCounter('plumb.judge.cost', {
    description: 'Money that was spent by the price lists of the judges file, by judge and currency',
    unit: '{currency}',
  });
  const endpointUp = instruments.createGauge('plumb.judge.endpoint.up', {
    description: '0 while the circuit breaker of an endpoint is open, else 1',
    unit: '1',
  });
  storeFailures.add(0);
  return {
    spent: ({ name }, { input, output }, cost, estimated) => {
      tokens.add(input, { 'plumb.judge': name, type: 'input', estimated });
      tokens.add(output, { 'plumb.judge': name, type: 'output', estimated });
      if (cost > 0) costs.add(cost, { 'plumb.judge': name, currency });
    },
    endpointChanged: (endpoint, state) => {
      endpointUp.record(state === 'down' ? 0 : 1, { 'plumb.judge.endpoint': endpoint });
      if (state === 'down') log.warn({ endpoint, state }, 'an endpoint fails all calls and is left alone');
      else log.info({ endpoint, state }, 'an endpoint changed its state');
    },
    endpointOpened: (endpoint) => endpointUp.record(1, { 'plumb.judge.endpoint': endpoint }),
    accountFailed: (error) => {
      storeFailures.add(1);
      log.warn({ error: describeError(error) }, 'what a run has spent could not be written; trying again');
    },
    verdict: ({ name }, source) => verdicts.add(1, { 'plumb.judge': name, source }),
    fault: ({ name }, error, attempt) => {
      const { fault } = error;
      faults.add(1, { 'plumb.judge': name, fault });
      log.info({ judge: name, fault, attempt, error: describeError(error) }, 'call to the endpoint failed');
    },
    storeFailed: (error) => {
      storeFailures.add(1);
      log.warn(
        { error: describeError(error) },
        'the verdict store failed; the verdict is kept in memory and written later',
      );
    },
  };
}
