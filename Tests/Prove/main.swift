import Platter
import PlatterCore
import TestSupport
import WriterProof

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

// Runs the proofs of the writer in large numbers: `make prove`.

/// One proof: what it counts, and how many.
struct Job {
  var name: String
  var noun: String
  var variable: String
  var usual: Int
  /// Runs a seed; returns how many it was.
  var run: (_ seed: UInt64, _ rest: Int) throws -> Int
}

let jobs = [
  Job(name: "model", noun: "sequences", variable: "PLATTER_MODEL_COUNT", usual: 10_000) { seed, _ in
    try Proof.sequence(seed: seed)
    return 1
  },
  Job(name: "cuts", noun: "crash images", variable: "PLATTER_CUT_COUNT", usual: 100_000) { seed, rest in
    try Proof.powerCuts(seed: seed, limit: rest)
  },
  Job(name: "faults", noun: "faults", variable: "PLATTER_FAULT_COUNT", usual: 20_000) { seed, rest in
    let kinds = Proof.FaultKind.allCases
    return try Proof.faults(kinds[Int(seed % UInt64(kinds.count))], seed: seed, limit: rest)
  },
]

let wanted = CommandLine.arguments.dropFirst()
let chosenSeed = environmentValue("PLATTER_PROOF_SEED").flatMap(UInt64.init)
var summary: [String] = []
var failures = 0
for job in jobs where wanted.isEmpty || wanted.contains(job.name) {
  let count = environmentValue(job.variable).flatMap(Int.init) ?? job.usual
  let start = ContinuousClock.now
  var done = 0
  var seed = chosenSeed ?? 0
  while done < count {
    do {
      done += try job.run(seed, count - done)
    } catch {
      print("\(job.name): \(error)\n")
      failures += 1
    }
    guard chosenSeed == nil, failures < 10 else { break }
    seed += 1
  }
  summary.append("\(done) \(job.noun) in \((ContinuousClock.now - start).components.seconds) s")
}
print("\(failures == 0 ? "proved" : "FAILED (\(failures))"): \(summary.joined(separator: ", "))")
exit(failures == 0 ? 0 : 1)
