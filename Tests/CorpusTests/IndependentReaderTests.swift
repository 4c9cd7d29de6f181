import SystemPackage
import TestSupport
import Testing

/// What readers by others make of the corpus. Its expected digests rest on models and on a slow reader of its own; these
/// tests say how far the rest of the world agrees, and name each image of which they read other bytes.
@Suite("Readers by others see in the corpus what we see")
struct IndependentReaderTests {
  /// Larger disks take Python too long.
  private static let largestDisk: UInt64 = 128 << 20

  @Test("dissect.hypervisor: qcow2", .requires(.dissect))
  func dissectQCOW2() throws { try expect(.dissect, "qcow2", agrees: 23, differs: []) }

  @Test("dissect.hypervisor: VMDK", .requires(.dissect))
  func dissectVMDK() throws {
    // It leaves out what the delta's seSparse extent says is unmapped.
    try expect(.dissect, "vmdk", agrees: 29, differs: ["vmdk-delta-sesparse"])
  }

  @Test("dissect.hypervisor: VHDX", .requires(.dissect))
  func dissectVHDX() throws {
    // It does not look at the log.
    try expect(.dissect, "vhdx", agrees: 13, differs: ["vhdx-log"])
  }

  @Test("libqcow", .requires(.libqcow))
  func libqcow() throws {
    // It garbles some packed clusters, of qemu-img's images too.
    try expect(
      .libqcow, "qcow2", agrees: 13, differs: ["qcow2-deflate", "qcow2-refcount-16", "qcow2-refcount-8"])
  }

  @Test("libvmdk", .requires(.libvmdk))
  func libvmdk() throws {
    // It takes all flat extents from the start of their file, and zeroed grains for data at sector 1.
    try expect(.libvmdk, "vmdk", agrees: 32, differs: ["vmdk-flat-offset", "vmdk-zero-grain"])
  }

  @Test("libvhdi", .requires(.libvhdi))
  func libvhdi() throws {
    // It looks neither at the log nor at which sectors of a block are the child's own.
    try expect(.libvhdi, "vhdx", agrees: 11, differs: ["vhdx-diff", "vhdx-diff-block-sizes", "vhdx-log"])
  }

  @Test("libmodi: DMG", .requires(.libmodi))
  func libmodi() throws { try expect(.libmodi, "dmg", agrees: 36, differs: []) }

  /// Reads all rows of a format. A reader may refuse what it does not know.
  ///
  /// - Parameters:
  ///   - count: on so many rows at least the reader gives the right bytes.
  ///   - differs: the cases of which it gives others.
  private func expect(_ reader: IndependentReader, _ format: String, agrees count: Int, differs: Set<String>) throws {
    let rows = Corpus.rows.filter { row in
      row.format == format && !row.mayBeRefused && row.arguments.isEmpty
        && row.sizes.allSatisfy { $0 <= Self.largestDisk }
    }
    let scratch = try ScratchDirectory()
    var images: [FilePath] = []
    for row in rows { images.append(try Corpus.unpack(row, into: scratch, folder: row.folder)) }
    let outcomes = try reader.read(images, format: format)

    var agreeing = 0
    for (row, outcome) in zip(rows, outcomes) {
      guard case .content(let byteCount, let digest) = outcome else { continue }
      let isRight = row.sizes.contains(byteCount) && row.expected.contains(digest)
      if isRight { agreeing += 1 }
      #expect(isRight || differs.contains(row.folder), "\(row.file): \(outcome)")
    }
    #expect(agreeing >= count, "of \(rows.count): \(agreeing)")
  }
}
