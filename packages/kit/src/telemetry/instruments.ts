import { metrics } from '@opentelemetry/api';
import type {
  Counter,
  Gauge,
  Histogram,
  MeterProvider,
  MetricOptions,
  UpDownCounter,
} from '@opentelemetry/api';

/**
 * Instruments that may be declared where they are used, at the top of a module: each finds the real one at its first use
 * after `startTelemetry`. (An instrument that the API makes before then would stay silent for ever.)
 */
function late<Instrument>(make: (provider: MeterProvider) => Instrument): () => Instrument {
  let madeBy: MeterProvider | undefined;
  let made: Instrument | undefined;
  return () => {
    const provider = metrics.getMeterProvider();
    if (made === undefined || provider !== madeBy) {
      made = make(provider);
      madeBy = provider;
    }
    return made;
  };
}

/** Only goes up. Name without unit suffix (`plumb.reward.scores`), unit by UCUM (`{score}`). */
export function counter(meterName: string, name: string, options: MetricOptions): Pick<Counter, 'add'> {
  const get = late((provider) => provider.getMeter(meterName).createCounter(name, options));
  return {
    add: (value, attributes) => {
      get().add(value, attributes);
    },
  };
}

/** Goes up and down: what is in flight. */
export function upDownCounter(
  meterName: string,
  name: string,
  options: MetricOptions,
): Pick<UpDownCounter, 'add'> {
  const get = late((provider) => provider.getMeter(meterName).createUpDownCounter(name, options));
  return {
    add: (value, attributes) => {
      get().add(value, attributes);
    },
  };
}

/** The latest value of something that is measured now and then. */
export function gauge(meterName: string, name: string, options: MetricOptions): Pick<Gauge, 'record'> {
  const get = late((provider) => provider.getMeter(meterName).createGauge(name, options));
  return {
    record: (value, attributes) => {
      get().record(value, attributes);
    },
  };
}

/** A distribution; durations are in seconds (unit `s`) and take `durationBuckets`. */
export function histogram(
  meterName: string,
  name: string,
  options: MetricOptions,
): Pick<Histogram, 'record'> {
  const get = late((provider) => provider.getMeter(meterName).createHistogram(name, options));
  return {
    record: (value, attributes) => {
      get().record(value, attributes);
    },
  };
}

/** Bucket boundaries in seconds: from a cached answer to a clip that a model takes minutes for. */
export const durationBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
];
