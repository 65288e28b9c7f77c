import { metrics } from '@opentelemetry/api';
import type {
  Attributes,
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

/**
 * The latest value for each set of labels, forgotten `keepMs` milliseconds after it was recorded: for labels that come and
 * go, such as a run or a job, whose last value would otherwise stay for as long as the process lives.
 */
export function recentGauge(
  meterName: string,
  name: string,
  options: MetricOptions,
  keepMs: number,
): Pick<Gauge, 'record'> {
  interface Latest {
    readonly value: number;
    readonly attributes: Attributes;
    readonly atMs: number;
  }
  const get = late((provider) => {
    const latest = new Map<string, Latest>();
    provider
      .getMeter(meterName)
      .createObservableGauge(name, options)
      .addCallback((result) => {
        for (const [key, { value, attributes, atMs }] of latest) {
          if (performance.now() - atMs > keepMs) latest.delete(key);
          else result.observe(value, attributes);
        }
      });
    return latest;
  });
  return {
    record: (value, attributes = {}) => {
      const key = JSON.stringify(Object.entries(attributes).toSorted(([a], [b]) => (a < b ? -1 : 1)));
      get().set(key, { value, attributes, atMs: performance.now() });
    },
  };
}
