import { testAccuracy } from './testing-accuracy.ts';
import { withNoise } from './testing-noise.ts';

testAccuracy(2_000_000, (clip, seed) => withNoise(clip, 0.04, seed));
