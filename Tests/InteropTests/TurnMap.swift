/// What `map --output=json` says, in a form that both programs' words can be compared in.
struct TurnMap: Equatable, CustomStringConvertible {
  struct Entry: Equatable {
    var range: Range<Int>
    var depth: Int
    var isPresent: Bool
    var isZero: Bool
    var isData: Bool
    var offset: Int?
  }

  private(set) var entries: [Entry] = []

  init(json: String) {
    for line in json.split(separator: "\n") {
      var members: [Substring: Substring] = [:]
      for member in line.split(whereSeparator: { "[]{},".contains($0) }) {
        let parts = member.split(whereSeparator: { "\": ".contains($0) })
        if parts.count == 2 { members[parts[0]] = parts[1] }
      }
      guard let start = members["start"].flatMap({ Int($0) }), let count = members["length"].flatMap({ Int($0) }) else {
        continue
      }
      append(
        Entry(
          range: start..<start + count, depth: members["depth"].flatMap { Int($0) } ?? 0,
          isPresent: members["present"] == "true", isZero: members["zero"] == "true", isData: members["data"] == "true",
          offset: members["offset"].flatMap { Int($0) }))
    }
  }

  /// Joined with the last one where nothing but the place tells them apart.
  private mutating func append(_ entry: Entry) {
    guard var last = entries.last, last.range.upperBound == entry.range.lowerBound else { return entries.append(entry) }
    var next = entry
    next.range = last.range
    next.offset = entry.offset.map { $0 - last.range.count }
    guard next == last else { return entries.append(entry) }
    last.range = last.range.lowerBound..<entry.range.upperBound
    entries[entries.count - 1] = last
  }

  /// The same with other words for each part.
  func mapped(_ change: (Entry) throws -> Entry) rethrows -> TurnMap {
    var map = self
    map.entries = []
    for entry in entries { map.append(try change(entry)) }
    return map
  }

  var description: String {
    entries.map { entry in
      "\(entry.range) depth \(entry.depth)\(entry.isPresent ? "" : " absent")\(entry.isZero ? " zero" : "")"
        + (entry.isData ? " data" : "") + (entry.offset.map { " at \($0)" } ?? "")
    }.joined(separator: "\n")
  }
}
