/** The distributions of jstat that this package uses; the package ships no types. */
declare module 'jstat' {
  const jStat: {
    normal: {
      inv(p: number, mean: number, std: number): number;
      cdf(x: number, mean: number, std: number): number;
    };
    studentt: { inv(p: number, degreesOfFreedom: number): number };
  };
  export default jStat;
}
