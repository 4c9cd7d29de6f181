// Copies for LZ77 decoders. The caller has checked ranges and room; nothing here tests anything.

/// Where an output stands: a buffer whose first `written` bytes are history and result.
@safe struct OutputTarget {
  let base: UnsafeMutableRawPointer
  var capacity: Int
  var written: Int
}

/// Room that a wide copy needs after its last byte, on either side: it moves whole words and may write (and read) past
/// the end.
let wideCopySlack = 32

/// Copies `count` bytes between places that do not overlap, 16 at a time.
@inline(__always)
func copyWide(from source: UnsafeRawPointer, to target: UnsafeMutableRawPointer, _ count: Int) {
  var offset = 0
  repeat {
    let word = unsafe source.loadUnaligned(fromByteOffset: offset, as: SIMD16<UInt8>.self)
    unsafe target.storeBytes(of: word, toByteOffset: offset, as: SIMD16<UInt8>.self)
    offset &+= 16
  } while offset < count
}

/// Copies `count` bytes from `distance` back as `copyBack` does, in words.
@inline(__always)
func copyBackWide(_ target: UnsafeMutableRawPointer, _ distance: Int, _ count: Int) {
  if distance >= 16 {
    unsafe copyWide(from: UnsafeRawPointer(target - distance), to: target, count)
  } else {
    unsafe repeatWide(target, distance, count)
  }
}

/// Short distances: eight bytes singly, then words from a multiple of the distance that is at least a word back.
@inline(never)
private func repeatWide(_ target: UnsafeMutableRawPointer, _ distance: Int, _ count: Int) {
  for index in 0..<8 {
    unsafe target.storeBytes(
      of: target.load(fromByteOffset: index &- distance, as: UInt8.self), toByteOffset: index, as: UInt8.self)
  }
  guard count > 8 else { return }
  // At most 8 + distance - 1, so the first source byte lies within the first repeat.
  let multiple = distance &* ((7 &+ distance) / distance)
  var offset = 8
  while offset < count {
    let word = unsafe target.loadUnaligned(fromByteOffset: offset &- multiple, as: UInt64.self)
    unsafe target.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
    offset &+= 8
  }
}

/// Copies `count` bytes from `distance` back, byte after byte: the source may overlap the target, and then repeats.
/// Touches exactly these bytes.
@inline(__always)
func copyBack(_ target: UnsafeMutableRawPointer, _ distance: Int, _ count: Int) {
  if distance >= count {
    unsafe target.copyMemory(from: target - distance, byteCount: count)
    return
  }
  if distance == 1 {
    let byte = unsafe target.load(fromByteOffset: -1, as: UInt8.self)
    _ = unsafe target.initializeMemory(as: UInt8.self, repeating: byte, count: count)
    return
  }
  for index in 0..<count {
    unsafe target.storeBytes(
      of: target.load(fromByteOffset: index &- distance, as: UInt8.self), toByteOffset: index, as: UInt8.self)
  }
}
