import { execFileSync } from 'node:child_process';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '../..');

/** The Python that PLUMB_PYTHON names; empty where it names none. */
export const pythonWithTorch = process.env['PLUMB_PYTHON'] ?? '';

/** What processes of trainers/torch need besides. One thread each: several processes share the machine. */
export const torchEnvironment = {
  PYTHONPATH: path.join(root, 'trainers/torch/src'),
  PYTHONDONTWRITEBYTECODE: '1',
  OMP_NUM_THREADS: '1',
};

/** Looks for packages without loading them. */
const probe = `import importlib.util, sys; missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
sys.exit("has no " + ", ".join(missing) if missing else 0)`;

/** Why runs of trainers/torch are left out; undefined where the Python has what they need. */
export const missingTorch = ((): string | undefined => {
  const page = 'docs/distributed-training.md';
  if (pythonWithTorch === '') return `PLUMB_PYTHON names no Python with PyTorch (${page})`;
  try {
    const packages = ['torch', 'safetensors', 'PIL', 'diffusers', 'peft', 'transformers'];
    execFileSync(pythonWithTorch, ['-c', probe, ...packages], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    const { stderr } = error as { stderr?: Buffer };
    return `${pythonWithTorch} ${stderr?.toString().trim() ?? 'cannot be run'} (${page})`;
  }
})();
