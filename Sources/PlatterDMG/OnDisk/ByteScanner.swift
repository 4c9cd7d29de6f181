import PlatterCore

/// The bytes of a part of a store, one after another, through a window of fixed size.
struct ByteScanner {
  static let windowByteCount = 64 << 10

  private let store: any ByteStore
  private let range: FileRange
  private var window: [UInt8] = []
  private var index = 0
  /// Bytes of the part up to the end of the window.
  private var windowEnd: UInt64 = 0

  /// - Parameter range: checked to lie inside the store.
  init(_ store: any ByteStore, _ range: FileRange) {
    self.store = store
    self.range = range
  }

  /// Bytes taken so far.
  var position: UInt64 { windowEnd - UInt64(window.count - index) }

  /// The next byte, or nil at the end.
  mutating func take() throws(ImageError) -> UInt8? {
    if index == window.count { guard try fill() else { return nil } }
    defer { index += 1 }
    return window[index]
  }

  /// The next byte, which stays.
  mutating func peek() throws(ImageError) -> UInt8? {
    if index == window.count { guard try fill() else { return nil } }
    return window[index]
  }

  private mutating func fill() throws(ImageError) -> Bool {
    let count = Int(min(range.byteCount - windowEnd, UInt64(Self.windowByteCount)))
    guard count > 0 else { return false }
    window = try store.readFully("the property list", at: range.offset + windowEnd, count: count)
    windowEnd += UInt64(count)
    index = 0
    return true
  }
}
