import { counter, gauge, meter } from '@plumb/kit/telemetry';
import type { EndpointMetrics } from './adapters/remote-endpoints.ts';
import type { GenerationMetrics } from './domain/generation.ts';

/** The generator's metrics: sizes and times of batches, and the number of clips (whose rate is clips a second). */
export function generationMetrics(): GenerationMetrics {
  const instruments = meter('plumb-generator');
  const batchSize = instruments.createHistogram('plumb.generator.batch.size', {
    description: 'Clips that shared a call of the denoiser',
    unit: '{clip}',
    advice: { explicitBucketBoundaries: [1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256] },
  });
  const duration = instruments.createHistogram('plumb.generator.sampling.duration', {
    description: 'Time to sample one batch',
    unit: 's',
    advice: { explicitBucketBoundaries: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300] },
  });
  const sampledClips = instruments.createCounter('plumb.generator.clips', {
    description: 'Clips sampled',
    unit: '{clip}',
  });
  const speed = instruments.createGauge('plumb.generator.clips_per_second', {
    description: 'Clips a second of the last batch',
    unit: '{clip}/s',
  });
  return {
    sampled(model, clips, _places, seconds) {
      const attributes = { 'plumb.model.version': model.version };
      batchSize.record(clips, attributes);
      duration.record(seconds, attributes);
      sampledClips.add(clips, attributes);
      if (seconds > 0) speed.record(clips / seconds, attributes);
    },
  };
}

const scope = 'plumb-generator';
const endpointUp = gauge(scope, 'plumb.generator.endpoint.up', {
  description: '0 while the circuit breaker of an endpoint of remote models is open, else 1',
  unit: '1',
});
const endpointFaults = counter(scope, 'plumb.generator.endpoint.faults', {
  description: 'Failed calls to endpoints of remote models, by kind; most are followed by another call',
  unit: '{fault}',
});
const endpointCost = counter(scope, 'plumb.generator.cost', {
  description: 'Money spent on clips of remote models, by the prices of the models',
  unit: '{currency}',
});

/** What endpoints of remote models do and cost. */
export const endpointMetrics: EndpointMetrics = {
  endpointUp(endpoint, up) {
    endpointUp.record(up ? 1 : 0, { 'plumb.endpoint': endpoint });
  },
  fault(endpoint, { fault }) {
    endpointFaults.add(1, { 'plumb.endpoint': endpoint, fault });
  },
  spent(endpoint, model, cost) {
    endpointCost.add(cost, { 'plumb.endpoint': endpoint, 'plumb.model': model });
  },
};
