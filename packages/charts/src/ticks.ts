/** A share as a tick: "52%". */
export function percentTick(share: number): string {
  return `${Math.round(share * 100)}%`;
}

/** A difference of shares as a tick in points: "+12". */
export function pointsTick(difference: number): string {
  const value = Math.round(difference * 100);
  return value > 0 ? `+${value}` : String(value).replace('-', '\u2212');
}
