"""Makes archives/spoken_digits.npz: digits spoken by espeak-ng, in noise, as log-mel features.

Run it only to make the archive again (``apt-get install espeak-ng``, version 1.51); the speech
examples read what it made. Every draw is seeded by the utterance: the same archive comes again.
"""

from __future__ import annotations

import io
import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ARCHIVE = Path(__file__).parent / "archives" / "spoken_digits.npz"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
# Voice variants of espeak-ng: here each is one speaker. Those that only repeat another are out.
SPEAKERS = (  # noqa: SIM905  (a list of them would fill the page)
    "Alex Alicia Andrea Andy Annie Demonic Denis Diogo Gene Henrique Hugo Jacky Lee Marco Mario "
    "Michael Mike Nguyen RicishayMax Storm Tweaky UniRobot adam anika announcer antonio aunty "
    "belinda benjamin boris caleb croak david ed f1 f2 f3 f4 f5 grandma grandpa gustave iven john "
    "linda m1 m2 m3 m4 m5 m6 m7 m8 max pedro quincy robosoft steph whisper whisperf"
).split()
N_RENDITIONS = 3  # of each digit by each speaker
N_BANDS = 20
WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.015


@dataclass(frozen=True)
class Utterance:
    """One spoken digit, before it is spoken."""

    speaker: int
    digit: int
    rendition: int

    def features(self) -> Floats:
        """(frames, bands) log energies in noise."""
        generator = np.random.default_rng([self.speaker, self.digit, self.rendition])
        accent = ACCENTS[generator.integers(len(ACCENTS))]
        speed, pitch = int(generator.integers(120, 260)), int(generator.integers(15, 85))
        voice = f"{accent}+{SPEAKERS[self.speaker]}"
        samples, rate = speak(WORDS[self.digit], voice, speed, pitch)
        return log_mel(add_noise(samples, generator), rate)


def speak(word: str, voice: str, words_per_minute: int, pitch: int) -> tuple[Floats, int]:
    """(samples,) of mean power 1, without the silence around them, and samples per second."""
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout"]
    spoken = subprocess.run([*command, word], capture_output=True, check=True)  # noqa: S603
    with wave.open(io.BytesIO(spoken.stdout)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float64)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    return samples / np.sqrt(np.mean(samples**2)), rate


def add_noise(samples: Floats, generator: np.random.Generator) -> Floats:
    """Noise of a random colour (power falls with frequency to the 0th to 2nd), 0 to 20 dB down."""
    slope, decibels = generator.uniform(0, 2), generator.uniform(0, 20)
    spectrum = np.fft.rfft(generator.standard_normal(len(samples)))
    spectrum /= np.arange(1, len(spectrum) + 1) ** (slope / 2)
    noise: Floats = np.fft.irfft(spectrum, len(samples))
    noise *= 10 ** (-decibels / 20) / np.sqrt(np.mean(noise**2))
    return samples + noise


def log_mel(samples: Floats, rate: int) -> Floats:
    """(frames, bands) natural logarithm of the energy in mel-spaced triangular bands."""
    width, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    samples = np.pad(samples, (0, max(0, width - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, width)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(width), 1024)) ** 2
    energies: Floats = power @ mel_bands(rate, power.shape[1]).T
    return np.log(energies + 1e-3)


def mel_bands(rate: int, n_frequencies: int) -> Floats:
    """(bands, frequencies) triangles whose corners are equally far apart in mel, up to 8 kHz."""
    highest = 2595 * np.log10(1 + 8000 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, N_BANDS + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, n_frequencies)
    lower, centre, upper = (corners[i : i + N_BANDS, None] for i in range(3))
    rising: Floats = (frequencies - lower) / (centre - lower)
    falling: Floats = (upper - frequencies) / (upper - centre)
    return np.maximum(0, np.minimum(rising, falling))


def all_utterances() -> list[Utterance]:
    """Every utterance of the archive, in its order."""
    return [
        Utterance(speaker, digit, rendition)
        for speaker in range(len(SPEAKERS))
        for digit in range(len(WORDS))
        for rendition in range(N_RENDITIONS)
    ]


def main() -> None:
    utterances = all_utterances()
    features = [one.features() for one in utterances]
    np.savez_compressed(
        ARCHIVE,
        features=np.concatenate(features).astype(np.float16),
        n_frames=np.array([len(one) for one in features], np.int16),
        digit=np.array([one.digit for one in utterances], np.uint8),
        speaker=np.array([one.speaker for one in utterances], np.uint8),
    )
    print(f"{ARCHIVE}: {len(utterances)} utterances, {ARCHIVE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
