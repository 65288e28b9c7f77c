/** Opens the configured endpoints, each with its limits. */

import { createAdmission } from '../domain/admission.ts';
import type { Judge } from '../domain/judge-definition.ts';
import type { EndpointAccess } from '../domain/judging.ts';
import type { ConfiguredEndpoint } from './judges-file.ts';
import { openEndpoint } from './openai-endpoint.ts';

/** The endpoint of a judge. Judges of one endpoint share its limits. */
export function endpointAccess(endpoints: readonly ConfiguredEndpoint[]): (judge: Judge) => EndpointAccess {
  const opened = new Map(
    endpoints.map(({ name, definition, apiKey }): [string, EndpointAccess] => [
      name,
      {
        endpoint: openEndpoint(name, definition, apiKey),
        definition,
        admission: createAdmission(name, definition),
      },
    ]),
  );
  return (judge) => {
    const access = opened.get(judge.definition.endpoint);
    // The judges file was checked for this.
    if (access === undefined) throw new TypeError(`no endpoint ${judge.definition.endpoint}`);
    return access;
  };
}
