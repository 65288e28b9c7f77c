import type { DifferenceInterval, RateInterval } from './intervals.ts';

/** A share as a whole percentage: 0.516 is "52%". */
export function percent(share: number): string {
  return `${Math.round(share * 100)}%`;
}

/** A share with one decimal: 0.516 is "51.6". */
export function points(share: number): string {
  return (share * 100).toFixed(1).replace('-', '\u2212');
}

/** A difference of shares in points with its sign: 0.123 is "+12.3". */
export function signedPoints(difference: number): string {
  return difference > 0 ? `+${points(difference)}` : points(difference);
}

/** "51.6 [45.4, 57.8]" */
export function rateText({ rate, low, high }: RateInterval): string {
  return `${points(rate)} [${points(low)}, ${points(high)}]`;
}

/** "+12.3 [+6.1, +18.4]" */
export function differenceText({ mean, low, high }: DifferenceInterval): string {
  return `${signedPoints(mean)} [${signedPoints(low)}, ${signedPoints(high)}]`;
}

/** A length of time in words: 523 is "8 min 43 s". */
export function durationText(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** A p-value: 0.0312 is "0.031", and everything below a thousandth "<0.001". */
export function pValueText(pValue: number): string {
  return pValue < 0.001 ? '<0.001' : pValue.toFixed(3);
}
