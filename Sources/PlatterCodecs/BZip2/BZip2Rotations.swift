import PlatterCore

/// Undoes the Burrows-Wheeler transform.
///
/// The rows of sorted rotations form a permutation: from each row to that of the rotation that starts one byte later. The
/// text is what the rows' first bytes give when one follows it from the text's own row. Each step waits for memory, so one
/// walk would mostly wait. Instead the permutation is cut at every `stride` rows (and at the text's own), and eight walks
/// at a time follow it from cut to cut; their bytes go to pages, and at the end the stretches are put in order.
///
/// Invariants: `rows` is a permutation, whatever the column; a walk ends at the entry before the next cut, so that every
/// entry is visited once at most and pages cannot run out.
@safe final class BZip2Rotations {
  private static let walkCount = 8
  private static let strideBits = 11
  private static let pageByteCount = 512
  private static let maximumCutCount = BZip2.maximumBlockByteCount >> strideBits + 2
  /// Whole pages, a first and a last one per stretch, and one that idle walks write to.
  private static let pageCount = BZip2.maximumBlockByteCount / pageByteCount + 2 * maximumCutCount + 1

  /// Bit 31: the next row is a cut. Bits 8 and up: the next row. Lowest byte: the first byte of this one.
  private let rows: UnsafeMutablePointer<UInt32>
  private static let cutBit: UInt32 = 1 << 31

  @inline(__always)
  private static func nextRow(_ entry: UInt32) -> Int { Int(truncatingIfNeeded: (entry & ~cutBit) &>> 8) }

  private let pages: UnsafeMutablePointer<UInt8>
  /// Per page: the stretch's next page, or -1; and which bytes it has.
  private let pageLinks: UnsafeMutablePointer<Page>
  private let stretches: UnsafeMutablePointer<Stretch>
  private var usedPageCount = 0

  private struct Page {
    var next: Int32
    var start: UInt16
    var end: UInt16
  }

  /// The bytes from one cut to the next.
  private struct Stretch {
    var row: Int32
    var page: Int32
    /// The row of the next cut.
    var next: Int32
  }

  /// One of the walks: where it stands, and where it writes.
  private struct Walk {
    /// The last entry seen, which tells the next row.
    var entry: UInt32
    var page: Int
    /// -1: idle.
    var stretch: Int

    var isAtCut: Bool { entry >= BZip2Rotations.cutBit }
    var row: Int { BZip2Rotations.nextRow(entry) }
  }

  init() {
    unsafe rows = .allocate(capacity: BZip2.maximumBlockByteCount + 1)
    unsafe pages = .allocate(capacity: Self.pageCount * Self.pageByteCount)
    unsafe pageLinks = .allocate(capacity: Self.pageCount)
    unsafe stretches = .allocate(capacity: Self.maximumCutCount)
  }

  deinit {
    unsafe rows.deallocate()
    unsafe pages.deallocate()
    unsafe pageLinks.deallocate()
    unsafe stretches.deallocate()
  }

  /// Replaces the last column by the text.
  ///
  /// - Parameters:
  ///   - column: `count` bytes, at least 1.
  ///   - textRow: the row that is the text itself, less than `count`.
  func restore(_ column: UnsafeMutablePointer<UInt8>, count: Int, textRow: Int) {
    precondition(textRow < count && count <= BZip2.maximumBlockByteCount)
    let stretchCount = cut(count, textRow)
    unsafe link(column, count, stretchCount)
    walk(stretchCount, idleRow: count)
    unsafe assemble(column, count, textRow)
  }

  /// The cuts in order of rows.
  private func cut(_ count: Int, _ textRow: Int) -> Int {
    var stretchCount = 0
    for row in stride(from: 0, to: count, by: 1 << Self.strideBits) {
      unsafe stretches[stretchCount] = Stretch(row: Int32(row), page: -1, next: 0)
      stretchCount += 1
      if textRow > row, textRow < min(row + 1 << Self.strideBits, count) {
        unsafe stretches[stretchCount] = Stretch(row: Int32(textRow), page: -1, next: 0)
        stretchCount += 1
      }
    }
    return stretchCount
  }

  /// Fills `rows`.
  private func link(_ column: UnsafeMutablePointer<UInt8>, _ count: Int, _ stretchCount: Int) {
    let rows = unsafe rows
    unsafe withUnsafeTemporaryAllocation(of: Int.self, capacity: 256) { starts in
      unsafe Self.countBytes(column, count, starts)
      for stretch in 0..<stretchCount {
        let first = unsafe Int(stretches[stretch].row)
        let end = unsafe stretch + 1 < stretchCount ? Int(stretches[stretch + 1].row) : count
        let byte = unsafe Int(column[first])
        unsafe rows[starts[byte]] = UInt32(truncatingIfNeeded: first &<< 8 | byte) | Self.cutBit
        unsafe starts[byte] &+= 1
        var row = first &+ 1
        while row < end {
          let byte = unsafe Int(column[row])
          let place = unsafe starts[byte]
          unsafe starts[byte] = place &+ 1
          unsafe rows[place] = UInt32(truncatingIfNeeded: row &<< 8 | byte)
          row &+= 1
        }
      }
    }
    // Where idle walks stay.
    unsafe rows[count] = UInt32(truncatingIfNeeded: count &<< 8)
  }

  /// For each byte, how many bytes are smaller.
  private static func countBytes(
    _ column: UnsafeMutablePointer<UInt8>, _ count: Int, _ starts: UnsafeMutableBufferPointer<Int>
  ) {
    unsafe withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 1024) { counts in
      unsafe counts.initialize(repeating: 0)
      // Four counters per byte, since runs of one would wait for each other.
      var index = 0
      while index &+ 4 <= count {
        unsafe counts[Int(column[index])] &+= 1
        unsafe counts[256 &+ Int(column[index &+ 1])] &+= 1
        unsafe counts[512 &+ Int(column[index &+ 2])] &+= 1
        unsafe counts[768 &+ Int(column[index &+ 3])] &+= 1
        index &+= 4
      }
      while index < count {
        unsafe counts[Int(column[index])] &+= 1
        index &+= 1
      }
      var sum = 0
      for byte in 0..<256 {
        unsafe starts[byte] = sum
        sum &+= unsafe Int(counts[byte] &+ counts[256 &+ byte] &+ counts[512 &+ byte] &+ counts[768 &+ byte])
      }
    }
  }
}

// MARK: - Walks

extension BZip2Rotations {
  private func newPage(start: Int) -> Int {
    precondition(usedPageCount < Self.pageCount)
    unsafe pageLinks[usedPageCount] = Page(next: -1, start: UInt16(start), end: UInt16(start))
    usedPageCount += 1
    return usedPageCount - 1
  }

  /// Follows every stretch. All walks write at the same place of their pages, so that one number tells where.
  private func walk(_ stretchCount: Int, idleRow: Int) {
    usedPageCount = 0
    let idlePage = newPage(start: 0)
    let idle = Walk(entry: UInt32(idleRow << 8), page: idlePage, stretch: -1)
    unsafe withUnsafeTemporaryAllocation(of: Walk.self, capacity: Self.walkCount) { walks in
      unsafe walks.initialize(repeating: idle)
      var begun = 0
      var walking = 0
      for index in walks.indices where begun < stretchCount {
        unsafe walks[index] = begin(begun, start: 0)
        begun += 1
        walking += 1
      }
      var place = 0
      while walking > 0 {
        let end = unsafe follow(walks, from: place)
        place = end == Self.pageByteCount ? 0 : end
        for index in walks.indices where unsafe walks[index].stretch >= 0 {
          if unsafe walks[index].isAtCut {
            unsafe finish(walks[index], end: end)
            walking -= 1
            if begun < stretchCount {
              unsafe walks[index] = begin(begun, start: place)
              begun += 1
              walking += 1
            } else {
              unsafe walks[index] = idle
            }
          } else if place == 0 {
            unsafe turnPage(&walks[index])
          }
        }
      }
    }
  }

  private func begin(_ stretch: Int, start: Int) -> Walk {
    let page = newPage(start: start)
    unsafe stretches[stretch].page = Int32(page)
    return unsafe Walk(entry: UInt32(stretches[stretch].row) << 8, page: page, stretch: stretch)
  }

  private func finish(_ walk: Walk, end: Int) {
    unsafe pageLinks[walk.page].end = UInt16(end)
    unsafe stretches[walk.stretch].next = Int32(walk.row)
  }

  private func turnPage(_ walk: inout Walk) {
    let next = newPage(start: 0)
    unsafe pageLinks[walk.page].end = UInt16(Self.pageByteCount)
    unsafe pageLinks[walk.page].next = Int32(next)
    walk.page = next
  }

  /// Takes steps with all walks until the pages are full or one has reached a cut.
  ///
  /// - Returns: where in the pages they stopped.
  private func follow(_ walks: UnsafeMutableBufferPointer<Walk>, from start: Int) -> Int {
    let rows = unsafe rows
    let pages = unsafe pages
    var place = start
    var (entry0, entry1) = unsafe (walks[0].entry, walks[1].entry)
    var (entry2, entry3) = unsafe (walks[2].entry, walks[3].entry)
    var (entry4, entry5) = unsafe (walks[4].entry, walks[5].entry)
    var (entry6, entry7) = unsafe (walks[6].entry, walks[7].entry)
    let page0 = unsafe pages + walks[0].page &* Self.pageByteCount
    let page1 = unsafe pages + walks[1].page &* Self.pageByteCount
    let page2 = unsafe pages + walks[2].page &* Self.pageByteCount
    let page3 = unsafe pages + walks[3].page &* Self.pageByteCount
    let page4 = unsafe pages + walks[4].page &* Self.pageByteCount
    let page5 = unsafe pages + walks[5].page &* Self.pageByteCount
    let page6 = unsafe pages + walks[6].page &* Self.pageByteCount
    let page7 = unsafe pages + walks[7].page &* Self.pageByteCount
    @inline(__always) func step(_ entry: inout UInt32, _ page: UnsafeMutablePointer<UInt8>) {
      entry = unsafe rows[Self.nextRow(entry)]
      unsafe page[place] = UInt8(truncatingIfNeeded: entry)
    }
    repeat {
      unsafe step(&entry0, page0)
      unsafe step(&entry1, page1)
      unsafe step(&entry2, page2)
      unsafe step(&entry3, page3)
      unsafe step(&entry4, page4)
      unsafe step(&entry5, page5)
      unsafe step(&entry6, page6)
      unsafe step(&entry7, page7)
      place &+= 1
    } while place < Self.pageByteCount
      && (entry0 | entry1 | entry2 | entry3 | entry4 | entry5 | entry6 | entry7) < Self.cutBit
    unsafe (walks[0].entry, walks[1].entry) = (entry0, entry1)
    unsafe (walks[2].entry, walks[3].entry) = (entry2, entry3)
    unsafe (walks[4].entry, walks[5].entry) = (entry4, entry5)
    unsafe (walks[6].entry, walks[7].entry) = (entry6, entry7)
    return place
  }

  /// Copies the stretches in the order in which they follow each other from the text's own row. A text that repeats
  /// itself has a shorter way round, which is taken again.
  private func assemble(_ text: UnsafeMutablePointer<UInt8>, _ count: Int, _ textRow: Int) {
    var done = 0
    var row = textRow
    while done < count {
      let stretch = unsafe stretches[stretchIndex(row, textRow)]
      var page = Int(stretch.page)
      while page >= 0, done < count {
        let link = unsafe pageLinks[page]
        let pageCount = min(Int(link.end) - Int(link.start), count - done)
        let source = unsafe pages + page * Self.pageByteCount + Int(link.start)
        unsafe (text + done).update(from: source, count: pageCount)
        done += pageCount
        page = Int(link.next)
      }
      row = Int(stretch.next)
    }
  }

  /// The stretch that starts at a cut.
  private func stretchIndex(_ row: Int, _ textRow: Int) -> Int {
    let index = row >> Self.strideBits
    let isExtra = textRow & (1 << Self.strideBits - 1) != 0 && row >= textRow
    return isExtra ? index + 1 : index
  }
}
