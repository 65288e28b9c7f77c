// oxlint-disable-next-line import/no-unassigned-import -- the library below needs the polyfill
import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsageExtension,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from '@peculiar/x509';
import type { JsonGeneralName } from '@peculiar/x509';

cryptoProvider.set(webcrypto);
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };

/** An authority of a test, which signs certificates that are valid for an hour. */
export interface TestAuthority {
  /** PEM */
  readonly certificate: string;
  /** A certificate for these names, with its key, as PEM. */
  issue(names: readonly JsonGeneralName[]): Promise<{ certificate: string; key: string }>;
}

/** Makes an authority. */
export async function createAuthority(name: string): Promise<TestAuthority> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const issuer = `CN=${name}`;
  const root = await X509CertificateGenerator.createSelfSigned({
    serialNumber: randomBytes(8).toString('hex'),
    name: issuer,
    keys,
    signingAlgorithm: algorithm,
    ...validity(),
    extensions: [new BasicConstraintsExtension(true, 1, true)],
  });
  return {
    certificate: root.toString('pem'),
    issue: async (names) => {
      const own = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
      const certificate = await X509CertificateGenerator.create({
        serialNumber: randomBytes(8).toString('hex'),
        subject: 'CN=test',
        issuer,
        publicKey: own.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: algorithm,
        ...validity(),
        extensions: [
          new SubjectAlternativeNameExtension([...names]),
          new ExtendedKeyUsageExtension(['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']),
        ],
      });
      const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', own.privateKey)).toString('base64');
      const key = `-----BEGIN PRIVATE KEY-----\n${pkcs8}\n-----END PRIVATE KEY-----\n`;
      return { certificate: certificate.toString('pem'), key };
    },
  };
}

/** Writes texts as files of a folder; gives their paths. */
export async function writeFiles<Name extends string>(
  folder: string,
  texts: Readonly<Record<Name, string>>,
): Promise<Record<Name, string>> {
  const paths: Partial<Record<Name, string>> = {};
  for (const name of Object.keys(texts)) {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the keys of a record of Name
    const key = name as Name;
    paths[key] = path.join(folder, name);
    await writeFile(paths[key], texts[key], { mode: 0o600 });
  }
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the loop filled in every name
  return paths as Record<Name, string>;
}

function validity(): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000) };
}
