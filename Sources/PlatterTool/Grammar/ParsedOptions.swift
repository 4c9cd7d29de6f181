import CPlatter

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// One word of the command line, byte for byte.
package struct Argument: Sendable, Equatable {
  package let bytes: [UInt8]

  package init(bytes: [UInt8]) { self.bytes = bytes }
  package init(_ text: String) { bytes = Array(text.utf8) }

  package var text: String { String(decoding: bytes, as: UTF8.self) }
}

/// What a verb was called with: the options in the order given, and the operands.
package struct ParsedOptions: Sendable {
  package struct Occurrence: Sendable {
    package let key: String
    package let value: Argument
  }

  package private(set) var occurrences: [Occurrence] = []
  package private(set) var operands: [Argument] = []

  package init() {}

  package func has(_ key: String) -> Bool { occurrences.contains { $0.key == key } }

  /// The last value given; the last one wins, as with QEMU's programs.
  package func argument(_ key: String) -> Argument? { occurrences.last { $0.key == key }?.value }

  package func value(_ key: String) -> String? { argument(key)?.text }

  /// All values given, in order.
  package func values(_ key: String) -> [String] { occurrences.filter { $0.key == key }.map { $0.value.text } }
}

extension ParsedOptions {
  /// Reads the words after the verb as libc's `getopt_long` does: letters may be joined, an argument may stick to its
  /// option, long names may be cut short, options may follow operands.
  ///
  /// - Parameter name: the word in front of them, which an error may repeat.
  /// - Throws: `Failure` in getopt's manner: "unrecognized option '-x'", "missing argument for option '-f'".
  package init(name: Argument, words: [Argument], specs: [OptionSpec]) throws(Failure) {
    let strings = ([name] + words).map { unsafe strdup($0) }
    defer { for unsafe string in unsafe strings { unsafe free(string) } }
    var vector = unsafe strings + [nil]
    let longs = unsafe LongOptions(specs)
    defer { unsafe longs.free() }
    let letters = Self.shortOptions(specs)

    platter_getopt_restart()
    while true {
      var value: UnsafePointer<CChar>?
      let found = unsafe platter_getopt_next(
        Int32(strings.count), &vector, letters, longs.entries, longs.entries.count, &value)
      if found == -1 { break }
      let position = Int(platter_getopt_index())
      guard let spec = Self.spec(found, specs) else {
        let previous = unsafe Self.word(vector[max(0, min(position, strings.count) - 1)]).text
        throw found == Int32(UInt8(ascii: ":"))
          ? Failure("missing argument for option '\(previous)'", isUsage: true)
          : Failure("unrecognized option '\(previous)'", isUsage: true)
      }
      occurrences.append(Occurrence(key: spec.key, value: unsafe Self.word(value)))
    }
    let first = Int(platter_getopt_index())
    if first < strings.count {
      for index in first..<strings.count { operands.append(unsafe Self.word(vector[index])) }
    }
  }

  /// The letters in getopt's own notation; ":" in front tells a missing argument from an unknown option.
  private static func shortOptions(_ specs: [OptionSpec]) -> String {
    var letters = ":"
    for spec in specs {
      guard let short = spec.short else { continue }
      letters.append(short)
      if spec.takesArgument { letters.append(":") }
    }
    return letters
  }

  private static func spec(_ found: Int32, _ specs: [OptionSpec]) -> OptionSpec? {
    if found >= LongOptions.firstValue {
      let index = Int(found - LongOptions.firstValue)
      return index < specs.count ? specs[index] : nil
    }
    guard found > 0, found != Int32(UInt8(ascii: "?")), found != Int32(UInt8(ascii: ":")) else { return nil }
    let letter = Character(UnicodeScalar(UInt8(truncatingIfNeeded: found)))
    return specs.first { $0.short == letter }
  }

  private static func word(_ pointer: UnsafePointer<CChar>?) -> Argument {
    guard let pointer = unsafe pointer else { return Argument("") }
    let count = unsafe strlen(pointer)
    let bytes = unsafe UnsafeRawBufferPointer(start: pointer, count: count)
    return unsafe Argument(bytes: [UInt8](bytes))
  }
}

/// A C copy of an argument; the caller frees it.
private func strdup(_ argument: Argument) -> UnsafeMutablePointer<CChar>? {
  let characters = argument.bytes.map { CChar(bitPattern: $0) } + [0]
  return unsafe characters.withUnsafeBufferPointer { buffer in
    guard let base = buffer.baseAddress else { return nil }
    return unsafe Glibc_strdup(base)
  }
}

#if canImport(Glibc)
  private func Glibc_strdup(_ text: UnsafePointer<CChar>) -> UnsafeMutablePointer<CChar>? { unsafe Glibc.strdup(text) }
#else
  private func Glibc_strdup(_ text: UnsafePointer<CChar>) -> UnsafeMutablePointer<CChar>? { unsafe Darwin.strdup(text) }
#endif

/// The table of long options in C's form.
@unsafe private struct LongOptions {
  /// Above every letter: value minus this is the index of the spec.
  static let firstValue: Int32 = 256

  let entries: [platter_long_option]

  init(_ specs: [OptionSpec]) {
    var entries: [platter_long_option] = []
    for (index, spec) in specs.enumerated() {
      guard let long = spec.long else { continue }
      unsafe entries.append(
        platter_long_option(
          name: Glibc_strdup(long), takesArgument: spec.takesArgument ? 1 : 0, value: Self.firstValue + Int32(index)))
    }
    unsafe self.entries = entries
  }

  func free() {
    for unsafe entry in unsafe entries { unsafe PlatterTool.release(entry.name) }
  }
}

private func release(_ text: UnsafePointer<CChar>?) { unsafe free(UnsafeMutablePointer(mutating: text)) }
