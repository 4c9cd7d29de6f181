package import PlatterCore
import PlatterCrypto
import SystemPackage

extension QCOW2: CreatableFormat {
  package static func create(in store: any ByteStore, _ request: CreationRequest) throws(ImageError) {
    try naming(store.name) { () throws(ImageError) in
      let maker = try ImageMaker(NewImage(request), request)
      try maker.make(in: store)
    }
  }
}

/// Writes an empty image. Memory: one buffer, whatever the size of the tables.
struct ImageMaker {
  /// Tables are written in pieces of this.
  private static let pieceByteCount: UInt64 = 1 << 20

  let image: NewImage
  let layout: NewLayout
  private(set) var header: Header
  private var extensions = HeaderExtensions()
  let passphrase: [UInt8]
  private let dataFile: @Sendable () throws(ImageError) -> (any ByteStore)?

  /// Checks everything; nothing is made yet.
  init(_ image: NewImage, _ request: CreationRequest) throws(ImageError) {
    try self.init(image, request, NewLayout(image, Self.header(image)))
  }

  /// With a layout for what else will lie in the file.
  init(_ image: NewImage, _ request: CreationRequest, _ layout: NewLayout) throws(ImageError) {
    self.image = image
    self.layout = layout
    header = Self.header(image)
    header.l1EntryCount = UInt32(layout.l1EntryCount)
    header.l1Offset = layout.l1Offset
    header.refcountTableOffset = layout.refcountTableOffset
    header.refcountTableClusterCount = UInt32(layout.refcountTableClusters)
    extensions.items = Self.extensions(image, layout)
    _ = try header.serialise(extensions, backingName: image.backingName)
    passphrase = try Self.passphrase(image, request)
    let makeFile = request.makeFile
    let name = image.dataFileName
    dataFile = { () throws(ImageError) in
      guard let name else { return nil }
      return try makeFile(FilePath(name))
    }
  }

  static func header(_ image: NewImage) -> Header {
    var header = Header(version: image.version, clusterBits: image.clusterBits)
    header.virtualByteCount = image.byteCount
    header.refcountOrder = image.refcountOrder
    header.compression = image.compression
    if image.compression != .deflate { header.incompatibleFeatures.insert(.compressionType) }
    if image.hasExtendedL2 { header.incompatibleFeatures.insert(.extendedL2) }
    if image.dataFileName != nil { header.incompatibleFeatures.insert(.dataFile) }
    if image.isDataFileRaw { header.autoclearFeatures.insert(.rawDataFile) }
    if image.hasLazyRefcounts { header.compatibleFeatures.insert(.lazyRefcounts) }
    switch image.encryption {
    case .none: break
    case .legacyAES: header.encryption = .legacyAES
    case .luks: header.encryption = .luks
    }
    return header
  }

  private static func extensions(_ image: NewImage, _ layout: NewLayout) -> [HeaderExtensions.Item] {
    typealias Kind = HeaderExtensions.Kind
    var items: [HeaderExtensions.Item] = []
    if let format = image.backingFormat { items.append(.init(type: Kind.backingFormat, bytes: Array(format.utf8))) }
    if let name = image.dataFileName { items.append(.init(type: Kind.dataFile, bytes: Array(name.utf8))) }
    if image.cryptoByteCount > 0 {
      items.append(.init(type: Kind.crypto, bytes: Words.encode([layout.cryptoOffset, image.cryptoByteCount])))
    }
    // Small clusters have no room to spare for what is only a courtesy.
    if image.version >= 3, image.clusterByteCount > 4096 {
      items.append(.init(type: Kind.featureNames, bytes: FeatureNames.standard))
    }
    return items
  }

  private static func passphrase(_ image: NewImage, _ request: CreationRequest) throws(ImageError) -> [UInt8] {
    guard let id = image.secretID else { return [] }
    guard let passphrase = try request.secret(id) else { throw ImageError(.notFound, "No secret with id '\(id)'") }
    return passphrase
  }

  /// Writes everything, the header last: until then the file is no image.
  func make(in store: any ByteStore) throws(ImageError) {
    let volume = try newVolume()
    if let data = try dataFile() { try fillDataFile(data) }
    try writeRefcounts(to: store)
    try writeL1(to: store)
    try writeCryptoHeader(volume, to: store)
    try writeL2(to: store)
    try reserveData(layout.dataOffset..<layout.end, in: store)
    // As QEMU has it: a last L1 table is not padded.
    let isL1Last = layout.end == layout.l1Offset + layout.l1Clusters * layout.clusterByteCount
    try store.resize(to: isL1Last ? layout.l1Offset + layout.l1EntryCount * 8 : layout.end)
    let head = try headerBytes()
    try store.write(head.rawBytes, at: 0)
  }

  /// What cluster 0 starts with.
  func headerBytes() throws(ImageError) -> [UInt8] {
    var header = header
    return try header.serialise(extensions, backingName: image.backingName)
  }

  // MARK: Tables

  /// Writes words given by their number, piece by piece.
  private func writeWords(
    _ count: UInt64, to store: any ByteStore, at offset: UInt64, _ word: (UInt64) -> UInt64
  ) throws(ImageError) {
    let perPiece = Self.pieceByteCount / 8
    var first: UInt64 = 0
    while first < count {
      let part = min(perPiece, count - first)
      var bytes = [UInt8](repeating: 0, count: Int(part * 8))
      bytes.withMutableRawBytes { bytes in
        for index in 0..<part { bytes.storeBigEndian(word(first + index), at: Int(index * 8)) }
      }
      try store.write(bytes.rawBytes, at: offset + first * 8)
      first += part
    }
  }

  private func writeRefcounts(to store: any ByteStore) throws(ImageError) {
    let cluster = layout.clusterByteCount
    let blockOffset = layout.refcountBlockOffset
    try writeWords(layout.refcountBlocks, to: store, at: layout.refcountTableOffset) { blockOffset + $0 * cluster }
    // Blocks lie one behind the other, so their counts are one long row of ones.
    let geometry = RefcountGeometry(header)
    let perPiece = (Self.pieceByteCount * 8) >> geometry.order
    var first: UInt64 = 0
    while first < layout.clusterCount {
      let count = min(perPiece, layout.clusterCount - first)
      var bytes = [UInt8](repeating: 0, count: Int(((count << geometry.order) + 7) / 8))
      bytes.withMutableRawBytes { bytes in
        for index in 0..<Int(count) { _ = geometry.set(index, in: &bytes, to: 1) }
      }
      try store.write(bytes.rawBytes, at: blockOffset + (first << geometry.order) / 8)
      first += count
    }
  }

  private func writeL1(to store: any ByteStore) throws(ImageError) {
    guard layout.l2Tables > 0 else { return }
    let (offset, cluster) = (layout.l2Offset, layout.clusterByteCount)
    try writeWords(layout.l1EntryCount, to: store, at: layout.l1Offset) { (offset + $0 * cluster) | L1Entry.copied }
  }

  /// Entries of all tables as one row, since the tables lie one behind the other.
  private func writeL2(to store: any ByteStore) throws(ImageError) {
    guard layout.l2Tables > 0 else { return }
    let cluster = layout.clusterByteCount
    let clusters = image.byteCount.dividedRoundingUp(by: cluster)
    let base = image.dataFileName == nil ? layout.dataOffset : 0
    if image.hasExtendedL2 {
      // No subcluster is allocated yet: the space is there, the bytes are the backing image's or zeros.
      try writeWords(clusters * 2, to: store, at: layout.l2Offset) { word in
        word % 2 == 0 ? (base + word / 2 * cluster) | L2Entry.copied : 0
      }
    } else {
      // Under encryption the zeros of new space would decrypt to noise, so the entries say zero where they can.
      let flag: UInt64 = header.encryption != .none && image.version >= 3 ? L2Entry.zero : 0
      try writeWords(clusters, to: store, at: layout.l2Offset) { (base + $0 * cluster) | L2Entry.copied | flag }
    }
  }

  // MARK: Data

  private func fillDataFile(_ data: any ByteStore) throws(ImageError) {
    try data.resize(to: image.byteCount)
    try reserveData(0..<image.byteCount, in: data)
  }

  private func reserveData(_ range: Range<UInt64>, in store: any ByteStore) throws(ImageError) {
    guard !range.isEmpty else { return }
    switch image.preallocation {
    case .off, .metadata: return
    case .falloc: try store.allocate(range)
    case .full: try store.writeZeros(range)
    }
  }

  // MARK: Encryption

  func newVolume() throws(ImageError) -> NewLUKSVolume? {
    guard case .luks(let settings) = image.encryption else {
      // Fails early where the cipher is missing on this system.
      if case .legacyAES = image.encryption { _ = try LegacyQCOWCipher.make(passphrase: passphrase) }
      return nil
    }
    return try LUKSHeader.create(LUKSCreation(settings), passphrase: passphrase)
  }

  private func writeCryptoHeader(_ volume: NewLUKSVolume?, to store: any ByteStore) throws(ImageError) {
    // No barriers: until the image's own header is written there is no image.
    try volume?.steps.carryOut(on: store, at: layout.cryptoOffset) {}
  }
}
