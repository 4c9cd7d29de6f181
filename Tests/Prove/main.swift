import Platter
import PlatterCore
import Synchronization
import TestSupport
import WriterProof

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

// Runs the proofs of the writer in large numbers: `make prove`.

/// One proof: what it counts, and how many.
struct Job: Sendable {
  var name: String
  var noun: String
  var variable: String
  var usual: Int
  /// Runs a seed; returns how many it was.
  var run: @Sendable (_ seed: UInt64, _ rest: Int) throws -> Int

  static let all = [
    Job(name: "model", noun: "sequences", variable: "PLATTER_MODEL_COUNT", usual: 10_000) { seed, _ in
      try Proof.sequence(seed: seed)
      return 1
    },
    Job(name: "cuts", noun: "crash images", variable: "PLATTER_CUT_COUNT", usual: 100_000) { seed, rest in
      try Proof.powerCuts(seed: seed, limit: rest)
    },
    Job(name: "faults", noun: "faults", variable: "PLATTER_FAULT_COUNT", usual: 20_000) { seed, rest in
      let kinds = Proof.FaultKind.allCases
      return try Proof.faults(kinds[Int(seed % UInt64(kinds.count))], seed: seed, limit: min(rest, 100))
    },
    Job(name: "threads", noun: "runs of six threads", variable: "PLATTER_THREADS_COUNT", usual: 300) { seed, _ in
      do { try Proof.sideBySide(seed: seed, threadCount: 6, stepCount: 100) } catch {
        throw WriterFault("seed \(seed): \(error)")
      }
      return 1
    },
  ]
}

/// What all workers have done of a job.
struct Tally: Sendable {
  static let maximumFailureCount = 10
  var nextSeed: UInt64
  var done = 0
  var failures = 0
}

let wanted = CommandLine.arguments.dropFirst()
let chosenSeed = environmentValue("PLATTER_PROOF_SEED").flatMap(UInt64.init)
let workerCount = environmentValue("PLATTER_PROOF_WORKERS").flatMap(Int.init) ?? 1

/// Prints at once, also into a file.
func say(_ text: String) {
  print(text)
  fflush(nil)
}

/// Runs a job in as many threads as are wanted.
func finish(_ job: Job) throws -> (done: Int, failures: Int) {
  let count = environmentValue(job.variable).flatMap(Int.init) ?? job.usual
  let only = chosenSeed
  let tally = Mutex(Tally(nextSeed: only ?? 0))
  try Workers.run(only == nil ? workerCount : 1) { _, _ throws(ImageError) in
    while true {
      let next = tally.withLock { tally -> (seed: UInt64, rest: Int)? in
        guard tally.done < count, tally.failures < Tally.maximumFailureCount else { return nil }
        if let only, tally.nextSeed > only { return nil }
        tally.nextSeed += 1
        return (tally.nextSeed - 1, count - tally.done)
      }
      guard let next else { return }
      do {
        let done = try job.run(next.seed, next.rest)
        tally.withLock { $0.done += done }
      } catch {
        tally.withLock { $0.failures += 1 }
        say("\(job.name): \(error)\n")
      }
    }
  }
  return tally.withLock { ($0.done, $0.failures) }
}

var summary: [String] = []
var failures = 0
for job in Job.all where wanted.isEmpty || wanted.contains(job.name) {
  let start = ContinuousClock.now
  let result = try finish(job)
  failures += result.failures
  summary.append("\(result.done) \(job.noun) in \((ContinuousClock.now - start).components.seconds) s")
  say(summary.last ?? "")
}
print("\(failures == 0 ? "proved" : "FAILED (\(failures))"): \(summary.joined(separator: ", "))")
exit(failures == 0 ? 0 : 1)
