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
    let scan = OptionScan(words: [name] + words, specs: specs)
    while true {
      let found = scan.next()
      if found.value == -1 { break }
      guard let spec = Self.spec(found.value, specs) else {
        let previous = scan.word(at: max(0, scan.index - 1)).text
        throw found.value == Int32(UInt8(ascii: ":"))
          ? Failure("missing argument for option '\(previous)'", isUsage: true)
          : Failure("unrecognized option '\(previous)'", isUsage: true)
      }
      occurrences.append(Occurrence(key: spec.key, value: found.argument))
    }
    for index in scan.index..<max(scan.index, words.count + 1) { operands.append(scan.word(at: index)) }
  }

  private static func spec(_ found: Int32, _ specs: [OptionSpec]) -> OptionSpec? {
    if found >= OptionScan.firstLongValue {
      let index = Int(found - OptionScan.firstLongValue)
      return index < specs.count ? specs[index] : nil
    }
    guard found > 0, found != Int32(UInt8(ascii: "?")), found != Int32(UInt8(ascii: ":")) else { return nil }
    let letter = Character(UnicodeScalar(UInt8(truncatingIfNeeded: found)))
    return specs.first { $0.short == letter }
  }
}

/// One pass of getopt over a command line, which it permutes. Owns C copies of everything that getopt looks at.
///
/// Invariant: one scan at a time, since getopt keeps its place in globals.
@safe private final class OptionScan {
  /// Above every letter: value minus this is the index of the spec.
  static let firstLongValue: Int32 = 256

  private let count: Int
  private let letters: String
  /// The words, ended by null.
  private let vector: UnsafeMutableBufferPointer<UnsafeMutablePointer<CChar>?>
  private let longs: UnsafeMutableBufferPointer<platter_long_option>

  init(words: [Argument], specs: [OptionSpec]) {
    count = words.count
    letters = Self.letters(specs)
    unsafe vector = .allocate(capacity: words.count + 1)
    unsafe vector.initialize(repeating: nil)
    for (index, word) in words.enumerated() { unsafe vector[index] = Self.copy(word.bytes) }
    let named = specs.enumerated().filter { $0.element.long != nil }
    unsafe longs = .allocate(capacity: named.count)
    for (position, (index, spec)) in named.enumerated() {
      let entry = unsafe platter_long_option(
        name: Self.copy(Array((spec.long ?? "").utf8)), takesArgument: spec.takesArgument ? 1 : 0,
        value: Self.firstLongValue + Int32(index))
      unsafe longs.initializeElement(at: position, to: entry)
    }
    platter_getopt_restart()
  }

  deinit {
    // By index: the formatter takes the "unsafe" out of a loop over pointers.
    for index in 0..<count { unsafe vector[index]?.deallocate() }
    for index in 0..<(unsafe longs.count) { unsafe longs[index].name.deallocate() }
    unsafe vector.deallocate()
    unsafe longs.deallocate()
  }

  /// The letters in getopt's own notation; ":" in front tells a missing argument from an unknown option.
  private static func letters(_ specs: [OptionSpec]) -> String {
    var letters = ":"
    for spec in specs {
      guard let short = spec.short else { continue }
      letters.append(short)
      if spec.takesArgument { letters.append(":") }
    }
    return letters
  }

  private static func copy(_ bytes: [UInt8]) -> UnsafeMutablePointer<CChar> {
    let copy = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count + 1)
    for (index, byte) in bytes.enumerated() { unsafe (copy + index).initialize(to: CChar(bitPattern: byte)) }
    unsafe (copy + bytes.count).initialize(to: 0)
    return unsafe copy
  }

  func next() -> (value: Int32, argument: Argument) {
    var argument: UnsafePointer<CChar>?
    let value = unsafe platter_getopt_next(
      Int32(count), vector.baseAddress, letters, longs.baseAddress, longs.count, &argument)
    return (value, unsafe Self.argument(argument))
  }

  /// Index of the next word to be looked at; after the end, of the first operand.
  var index: Int { min(Int(platter_getopt_index()), count) }

  func word(at index: Int) -> Argument {
    guard index < count else { return Argument("") }
    return unsafe Self.argument(vector[index])
  }

  private static func argument(_ pointer: UnsafePointer<CChar>?) -> Argument {
    guard let pointer = unsafe pointer else { return Argument("") }
    let bytes = unsafe UnsafeRawBufferPointer(start: pointer, count: strlen(pointer))
    return unsafe Argument(bytes: [UInt8](bytes))
  }
}
