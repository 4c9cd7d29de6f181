"""Makes disk images without the help of any image tool: inputs for the demonstration and for the benchmarks.

As a program:  images.py KIND OUTPUT [name=value ...]; each KIND is a function below.
"""
import base64
import hashlib
import lzma
import bz2
import multiprocessing
import os
import random
import struct
import subprocess
import sys
import zlib

MIB = 1 << 20


def machine_files(folders, smallest=4096):
    """Regular files below the folders, always in the same order."""
    for folder in folders:
        for root, names, files in os.walk(folder):
            names.sort()
            for name in sorted(files):
                path = os.path.join(root, name)
                if not os.path.islink(path) and os.path.isfile(path) and os.path.getsize(path) >= smallest:
                    yield path


def machine_bytes(folders, count):
    """`count` bytes of the machine's own files, repeated from the start where they do not suffice."""
    parts, have = [], 0
    for path in machine_files(folders):
        try:
            with open(path, "rb") as file:
                part = file.read(min(count - have, 16 * MIB))
        except OSError:
            continue
        parts.append(part)
        have += len(part)
        if have >= count:
            break
    data = b"".join(parts) or b"no files at all\n"
    return (data * (count // len(data) + 1))[:count]


def text_bytes(count, seed):
    """Lines of words, from a vocabulary with a natural skew."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("etaoinshrdlu", k=generator.randint(2, 9))) for _ in range(4000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    block = " ".join(generator.choices(words, weights, k=700_000)).encode()
    return (block * (count // len(block) + 1))[:count]


def mixed(output, size=2048 * MIB, data=1024 * MIB, seed=1):
    """A sparse raw disk: programs and libraries, documents, text, noise and written zeros, with holes between."""
    size, data, seed = int(size), int(data), int(seed)
    kinds = [
        (0.40, lambda n: machine_bytes(["/usr/lib", "/usr/bin"], n)),
        (0.20, lambda n: machine_bytes(["/usr/share", "/usr/include"], n)),
        (0.20, lambda n: text_bytes(n, seed)),
        (0.10, lambda n: random.Random(seed).randbytes(n)),
        (0.10, bytes),
    ]
    generator = random.Random(seed)
    # Pieces of 64 KiB to 8 MiB, each kind cut up, the pieces shuffled, and holes dealt out between them.
    pieces = []
    with open(output, "wb") as file:
        file.truncate(size)
        for share, make in kinds:
            content = make(int(data * share))
            start = 0
            while start < len(content):
                count = min(len(content) - start, 65536 << generator.randint(0, 7))
                pieces.append((content, start, count))
                start += count
            del content
        generator.shuffle(pieces)
        spare = (size - sum(count for _, _, count in pieces)) // 65536
        gaps = sorted(generator.randint(0, spare) for _ in pieces)
        place, before = 0, 0
        for (content, start, count), gap in zip(pieces, gaps):
            place += (gap - before) * 65536
            before = gap
            file.seek(place)
            file.write(content[start:start + count])
            place += (count + 4095) // 4096 * 4096
            if place + 65536 > size:
                break
        file.truncate(size)


# --- qcow2 -----------------------------------------------------------------------------------------------------------

CLUSTER = 65536


def pack_deflate(cluster):
    # Level 6 and a window of 4 KiB, as the format's other writers have it.
    packer = zlib.compressobj(6, zlib.DEFLATED, -12)
    return packer.compress(cluster) + packer.flush()


def clusters_of(path):
    """(index, bytes) of every 64 KiB that a sparse file holds and that is not zero."""
    zero = bytes(CLUSTER)
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        place = done = 0
        while place < size:
            try:
                start = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:
                return
            place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for index in range(max(start // CLUSTER, done), -(-place // CLUSTER)):
                cluster = os.pread(file.fileno(), CLUSTER, index * CLUSTER).ljust(CLUSTER, b"\0")
                done = index + 1
                if cluster != zero:
                    yield index, cluster


def pack_one(item):
    index, cluster = item
    packed = pack_deflate(cluster)
    return index, packed if len(packed) < CLUSTER else None, cluster


def qcow2(output, source):
    """A compressed qcow2 (version 3, zlib) with the content of a raw disk."""
    size = os.path.getsize(source)
    tables = -(-size // (CLUSTER * 8192))
    l1_clusters = -(-tables * 8 // CLUSTER)
    l2 = [[0] * 8192 for _ in range(tables)]
    refcounts = {}

    def use(start, count):
        for cluster in range(start // CLUSTER, (start + max(count, 1) - 1) // CLUSTER + 1):
            refcounts[cluster] = refcounts.get(cluster, 0) + 1

    with open(output, "wb") as file, multiprocessing.Pool(os.cpu_count()) as pool:
        place = (1 + l1_clusters + tables) * CLUSTER
        use(0, place)
        for index, packed, cluster in pool.imap(pack_one, clusters_of(source), chunksize=16):
            if packed is None:
                place = -(-place // CLUSTER) * CLUSTER
                file.seek(place)
                file.write(cluster)
                use(place, CLUSTER)
                entry = place | 1 << 63
                place += CLUSTER
            else:
                file.seek(place)
                file.write(packed)
                use(place, len(packed))
                # Sectors of 512 bytes touched beyond the first; the count lies above bit 54 for 64 KiB clusters.
                more = (place + len(packed) - 1) // 512 - place // 512
                entry = place | more << 54 | 1 << 62
                place += len(packed)
            l2[index // 8192][index % 8192] = entry
        place = -(-place // CLUSTER) * CLUSTER
        # Refcount blocks hold 32768 numbers of two bytes; they and their table count themselves too.
        blocks = 1
        while True:
            end = place // CLUSTER + blocks + 1
            if blocks * 32768 >= end:
                break
            blocks = -(-end // 32768)
        use(place, (blocks + 1) * CLUSTER)
        file.seek(place)
        file.write(struct.pack(">%dQ" % blocks, *(place + CLUSTER * (1 + i) for i in range(blocks))).ljust(CLUSTER, b"\0"))
        numbers = [refcounts.get(cluster, 0) for cluster in range(blocks * 32768)]
        file.write(struct.pack(">%dH" % len(numbers), *numbers))
        file.seek(0)
        file.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size, 0, tables, CLUSTER, place, 1, 0, 0,
                               0, 0, 0, 4, 104))
        file.seek(CLUSTER)
        offsets = [(1 + l1_clusters + i) * CLUSTER | 1 << 63 for i in range(tables)]
        file.write(struct.pack(">%dQ" % tables, *offsets).ljust(l1_clusters * CLUSTER, b"\0"))
        for table in l2:
            file.write(struct.pack(">8192Q", *table))


def million(output, extents=1_000_000, size=1 << 40):
    """A qcow2 of 1 TiB whose map has a million entries: one cluster of data in every 2 MiB or so. All of them lie at the
    same two places of the file, so it needs little space."""
    extents, size = int(extents), int(size)
    tables = -(-size // (CLUSTER * 8192))
    l1_clusters = -(-tables * 8 // CLUSTER)
    total = size // CLUSTER
    step = total / (extents / 2)
    first = 1 + l1_clusters + tables + 2
    l2 = [bytearray(CLUSTER) for _ in range(tables)]
    for number in range(extents // 2):
        index = int(number * step) + 1
        struct.pack_into(">Q", l2[index // 8192], index % 8192 * 8, (first + number % 2) * CLUSTER | 1 << 63)
    with open(output, "wb") as file:
        refcount_table = (1 + l1_clusters + tables) * CLUSTER
        file.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size, 0, tables, CLUSTER,
                               refcount_table, 1, 0, 0, 0, 0, 0, 4, 104))
        file.seek(CLUSTER)
        file.write(struct.pack(">%dQ" % tables, *((1 + l1_clusters + i) * CLUSTER | 1 << 63 for i in range(tables))))
        for number, table in enumerate(l2):
            file.seek((1 + l1_clusters + number) * CLUSTER)
            file.write(table)
        file.seek(first * CLUSTER)
        file.write(b"\xa5" * 2 * CLUSTER)


def clusters(output, count=4_000_000):
    """A sound qcow2 of so many clusters, each with a place of its own in a sparse file: an L2 table, the clusters that it
    names, the next table, as preallocation of metadata lays them out."""
    count = int(count)
    tables = -(-count // 8192)
    l1_clusters = -(-tables * 8 // CLUSTER)
    used = 1 + l1_clusters + tables + count
    blocks = 1
    while blocks * 32768 < used + blocks + 1:
        blocks += 1
    first = 1 + l1_clusters + 1 + blocks
    total = first + tables + count
    places, place = [], first
    for number in range(tables):
        places.append(place)
        place += 1 + min(8192, count - number * 8192)
    with open(output, "wb") as file:
        file.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, count * CLUSTER, 0, tables, CLUSTER,
                               (1 + l1_clusters) * CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104))
        file.seek(CLUSTER)
        file.write(struct.pack(">%dQ" % tables, *(place * CLUSTER | 1 << 63 for place in places)))
        file.seek((1 + l1_clusters) * CLUSTER)
        file.write(struct.pack(">%dQ" % blocks, *((2 + l1_clusters + i) * CLUSTER for i in range(blocks))))
        file.seek((2 + l1_clusters) * CLUSTER)
        file.write(b"\0\1" * total)
        for number, place in enumerate(places):
            file.seek(place * CLUSTER)
            named = min(8192, count - number * 8192)
            file.write(struct.pack(">%dQ" % named, *((place + 1 + i) * CLUSTER | 1 << 63 for i in range(named))))
        file.truncate(total * CLUSTER)


# --- DMG -------------------------------------------------------------------------------------------------------------

CHUNK = 2048 * 512
LZFSE = 0x80000007
CODECS = {
    "zlib": (0x80000005, lambda b: zlib.compress(b, 6)),
    "bzip2": (0x80000006, lambda b: bz2.compress(b, 9)),
    "lzma": (0x80000008, lambda b: lzma.compress(b, preset=1)),
}


def pack_chunk(item):
    codec, chunk = item
    return (None if chunk.count(0) == len(chunk) else CODECS[codec][1](chunk)), chunk


def chunks_of(path, codec):
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield codec, chunk


def packed_chunks(source, codec):
    """(packed bytes, or None for zeros, and plain bytes) of every chunk, on all cores."""
    with multiprocessing.Pool(os.cpu_count()) as pool:
        yield from pool.imap(pack_chunk, chunks_of(source, codec), chunksize=4)


def chunks_by(packer, source):
    """The same by a program that takes and gives units, each behind its length: Benchmarks/pack-units."""
    with subprocess.Popen([packer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for _, chunk in chunks_of(source, None):
            if chunk.count(0) == len(chunk):
                yield None, chunk
                continue
            process.stdin.write(struct.pack("<I", len(chunk)) + chunk)
            process.stdin.flush()
            length, = struct.unpack("<I", process.stdout.read(4))
            yield process.stdout.read(length), chunk
        process.stdin.close()


def dmg(output, source, codec="zlib", packer=None):
    """A DMG of one table in chunks of 1 MiB, those that do not shrink as they are; lzfse needs a program that packs.

    7-Zip 26.02 calls a stored LZFSE block damaged, though it gives its bytes."""
    sectors = os.path.getsize(source) // 512
    entries, sector = [], 0
    kind = LZFSE if codec == "lzfse" else CODECS[codec][0]
    with open(output, "wb") as file:
        for packed, chunk in chunks_by(packer, source) if codec == "lzfse" else packed_chunks(source, codec):
            count = len(chunk) // 512
            if packed is None:
                entries.append(struct.pack(">IIQQQQ", 0, 0, sector, count, file.tell(), 0))
            elif len(packed) < len(chunk):
                entries.append(struct.pack(">IIQQQQ", kind, 0, sector, count, file.tell(), len(packed)))
                file.write(packed)
            else:
                entries.append(struct.pack(">IIQQQQ", 1, 0, sector, count, file.tell(), len(chunk)))
                file.write(chunk)
            sector += count
        data = file.tell()
        entries.append(struct.pack(">IIQQQQ", 0xffffffff, 0, sector, 0, data, 0))
        none = struct.pack(">II128x", 0, 0)
        table = struct.pack(">4sIQQQII24x", b"mish", 1, 0, sectors, 0, CHUNK // 512 + 8, 0) + none
        table += struct.pack(">I", len(entries)) + b"".join(entries)
        text = base64.b64encode(table).decode()
        plist = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" '
            '"http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n<plist version="1.0">\n<dict>\n<key>resource-fork</key>\n'
            '<dict>\n<key>blkx</key>\n<array>\n<dict>\n<key>Attributes</key>\n<string>0x0050</string>\n<key>Data</key>\n'
            "<data>\n%s\n</data>\n<key>ID</key>\n<string>0</string>\n<key>Name</key>\n<string>whole disk "
            "(unknown partition : 0)</string>\n</dict>\n</array>\n</dict>\n</dict>\n</plist>\n" % text).encode()
        file.write(plist)
        file.write(struct.pack(">4sIIIQQQQQII16s", b"koly", 4, 512, 1, 0, 0, data, 0, 0, 1, 1, bytes(16)))
        file.write(none)
        file.write(struct.pack(">QQ120x", data, len(plist)))
        file.write(none)
        file.write(struct.pack(">IQ12x", 1, sectors))


def digest(path):
    """SHA-256 of a file, in hexadecimal digits."""
    total = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(4 * MIB):
            total.update(block)
    return total.hexdigest()


if __name__ == "__main__":
    made = {f.__name__: f for f in (mixed, qcow2, million, clusters, dmg)}
    if len(sys.argv) < 3 or sys.argv[1] not in made:
        sys.exit(__doc__)
    made[sys.argv[1]](sys.argv[2], **dict(word.split("=", 1) for word in sys.argv[3:]))
