/** Opens the configured endpoints, each with its limits. */

import { createAdmission } from '@plumb/endpoint';
import type { EndpointState } from '@plumb/endpoint';
import type { Judge } from '../domain/judge-definition.ts';
import type { EndpointAccess } from '../domain/judging.ts';
import type { ConfiguredEndpoint } from './judges-file.ts';
import { openEndpoint } from './openai-endpoint.ts';
import type { TracedContent } from './openai-endpoint.ts';

/** The endpoints, by judge and all together. */
export interface Endpoints {
  /** The endpoint of a judge. Judges of one endpoint share its limits. */
  of(judge: Judge): EndpointAccess;
  readonly all: readonly EndpointAccess[];
}

/**
 * @param changed Told when an endpoint goes down and comes back.
 * @param content What of a call its span shows.
 */
export function openEndpoints(
  endpoints: readonly ConfiguredEndpoint[],
  changed: (endpoint: string, state: EndpointState) => void,
  content: TracedContent = 'off',
): Endpoints {
  const opened = new Map(
    endpoints.map(({ name, definition, apiKey }): [string, EndpointAccess] => [
      name,
      {
        endpoint: openEndpoint(name, definition, apiKey, content),
        definition,
        admission: createAdmission(name, definition, 'JUDGE_UNAVAILABLE', (state) => changed(name, state)),
      },
    ]),
  );
  return {
    of(judge) {
      const access = opened.get(judge.definition.endpoint);
      // The judges file was checked for this.
      if (access === undefined) throw new TypeError(`no endpoint ${judge.definition.endpoint}`);
      return access;
    },
    all: [...opened.values()],
  };
}
