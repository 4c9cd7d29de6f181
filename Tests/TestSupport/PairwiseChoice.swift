/// Few combinations of options in which any two values that can stand together do so at least once.
package enum PairwiseChoice {
  /// - Parameters:
  ///   - options: the values of each option.
  ///   - isPossible: whether some values can stand together; asked of parts of a combination too.
  package static func all(_ options: [[String]], isPossible: (Set<String>) -> Bool) -> [[String]] {
    var open = Set(pairs(options).filter { isPossible($0) })
    var combinations: [[String]] = []
    var generator = SeededGenerator(seed: 7)
    while let wanted = open.sorted(by: { $0.sorted().lexicographicallyPrecedes($1.sorted()) }).first {
      guard let combination = complete(wanted, options, open, isPossible, &generator) else {
        open.remove(wanted)
        continue
      }
      combinations.append(combination)
      open = open.filter { !$0.isSubset(of: combination) }
    }
    return combinations
  }

  private static func pairs(_ options: [[String]]) -> [Set<String>] {
    var pairs: [Set<String>] = []
    for first in options.indices {
      for second in options.indices where second > first {
        for one in options[first] { for other in options[second] { pairs.append([one, other]) } }
      }
    }
    return pairs
  }

  /// A combination that holds `wanted` and as many other open pairs as comes easily; nil where there is none.
  private static func complete(
    _ wanted: Set<String>, _ options: [[String]], _ open: Set<Set<String>>, _ isPossible: (Set<String>) -> Bool,
    _ generator: inout SeededGenerator
  ) -> [String]? {
    for _ in 0..<20 {
      var chosen = wanted
      for values in options.shuffled(using: &generator) where !values.contains(where: chosen.contains) {
        let possible = values.shuffled(using: &generator).filter { isPossible(chosen.union([$0])) }
        let gain = { (value: String) in
          open.count { $0.contains(value) && $0.subtracting([value]).isSubset(of: chosen) }
        }
        guard let best = possible.max(by: { gain($0) < gain($1) }) else { break }
        chosen.insert(best)
      }
      let combination = options.compactMap { values in values.first(where: chosen.contains) }
      if combination.count == options.count { return combination }
    }
    return nil
  }
}
