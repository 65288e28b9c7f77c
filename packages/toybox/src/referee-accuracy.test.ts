import { testAccuracy } from './testing-accuracy.ts';

testAccuracy(1_000_000, (clip) => clip);
