package import PlatterCore
package import SystemPackage

/// A safe look at a file from a stranger: what it could be, what it names, what is odd. Opens that one file and nothing that
/// it refers to.
package struct Inspection: Sendable {
  package struct Candidate: Sendable {
    package var formatName: String
    /// 100 where the format's signature is there.
    package var score: Int
    /// What opening it as this format says, where it fails.
    package var error: ImageError?
    package var virtualByteCount: UInt64?
    package var backing: BackingReference?
    package var facts: ImageFacts?
    package var isEncrypted = false
  }

  package var name: String
  package var byteCount: UInt64
  package var allocatedByteCount: UInt64
  /// Every format whose signature matches; raw only where none does.
  package var candidates: [Candidate]
  /// A known format that is not supported.
  package var unsupportedFormat: String?
  /// Sentences; empty for a file that looks as it should.
  package var findings: [String]

  /// - Throws: `.notFound`, `.io` where the file itself cannot be read. A damaged image is no error but a finding.
  package init(_ path: FilePath) throws(ImageError) {
    let store = try FileStore(path)
    name = path.printable
    byteCount = try store.byteCount()
    allocatedByteCount = try store.allocatedByteCount()
    findings = []
    candidates = []
    let matches = try Formats.probe(store)
    let certain = matches.filter { $0.score >= Formats.certain }
    let head = try store.readPrefix(count: 512)
    unsupportedFormat = Formats.unsupportedSignature(head.rawBytes)
    for match in certain.isEmpty ? Array(matches.prefix(1)) : certain {
      candidates.append(Self.candidate(match, store, path))
    }
    note(certain.count)
  }

  private static func candidate(_ match: Formats.Match, _ store: FileStore, _ path: FilePath) -> Candidate {
    var candidate = Candidate(formatName: match.format.name, score: match.score)
    var context = OpenContext(path: path, resolver: ReferenceResolver(.none))
    context.isForFactsOnly = true
    do throws(ImageError) {
      let map = try match.format.open(store, context)
      candidate.virtualByteCount = map.byteCount
      candidate.backing = map.backing
      candidate.facts = map.facts
      candidate.isEncrypted = map.isEncrypted
    } catch {
      candidate.error = error.named(path.printable)
    }
    return candidate
  }

  private mutating func note(_ certainCount: Int) {
    if certainCount > 1 {
      let names = candidates.map(\.formatName).joined(separator: ", ")
      findings.append("the content matches \(certainCount) formats (\(names)): name the format when opening it")
    }
    if let unsupportedFormat {
      findings.append("the signature of a \(unsupportedFormat) image, which is not supported")
    }
    for candidate in candidates {
      if let error = candidate.error { findings.append("as \(candidate.formatName): \(error.message)") }
      for warning in candidate.facts?.warnings ?? [] { findings.append("as \(candidate.formatName): \(warning)") }
      if let backing = candidate.backing { note(backing, candidate) }
      for reference in candidate.facts?.references ?? [] { note(reference, "file") }
      if candidate.facts?.isCorrupt == true { findings.append("as \(candidate.formatName): marked corrupt") }
      if candidate.facts?.isDirty == true { findings.append("as \(candidate.formatName): not closed cleanly") }
      if let size = candidate.virtualByteCount, size > 64 << 40 {
        findings.append("as \(candidate.formatName): the virtual disk has \(size) bytes, more than 64 TiB")
      }
    }
  }

  private mutating func note(_ backing: BackingReference, _ candidate: Candidate) {
    note(backing.displayName, "backing file")
    if backing.formatName == nil { findings.append("the backing file's format is not recorded: it would be guessed") }
  }

  private mutating func note(_ reference: String, _ role: String) {
    let path = FilePath(reference)
    let shown = reference.printable
    if ReferenceResolver.scheme(Array(reference.utf8)) != nil {
      findings.append("the \(role) \"\(shown)\" names a protocol instead of a file")
    } else if path.isAbsolute {
      findings.append("the \(role) \"\(shown)\" is an absolute path")
    } else if path.components.contains(where: { $0.kind == .parentDirectory }) {
      findings.append("the \(role) \"\(shown)\" leaves the image's folder")
    }
  }
}
