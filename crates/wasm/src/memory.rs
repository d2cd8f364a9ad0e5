//! The guest's linear memory: the snapshot's, mapped privately, and put back between two runs of a tenant.

#![allow(
    unsafe_code,
    reason = "wasmtime trusts whoever gives it memory; what is trusted is `casemate_linux::memory::Space`"
)]

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_linux::memory::{Image, Resident, Space, Writes};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Memories that wait for their next run: one is in use and one is made in advance.
const WAIT: usize = 2;

/// Makes the memories of an engine.
#[derive(Clone)]
pub(crate) struct Memories(Arc<Shared>);

struct Shared {
    image: Arc<Image>,
    /// What every guest touches.
    hot: Resident,
    waiting: Mutex<Vec<Space>>,
}

impl Memories {
    /// Memories that begin with the bytes of a file that [`casemate_linux::file::open_owned`] opened. Where
    /// `writes` tells what was written they are put back page by page. `hot` is mapped before a guest touches it.
    ///
    /// # Errors
    /// Those of mapping the file.
    pub(crate) fn new(file: File, writes: Option<Writes>, hot: Resident) -> io::Result<Self> {
        // SAFETY: the file lies in a folder of the user's own, which the host checked on this very descriptor; it was
        // renamed into place complete and is never written again.
        let image = unsafe { Image::new(file, writes) }?;
        Ok(Self(Arc::new(Shared {
            image: Arc::new(image),
            hot,
            waiting: Mutex::default(),
        })))
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Space>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One memory. When its guest is gone it is put back and waits for the next.
struct Given {
    /// Taken when this is dropped.
    space: Option<Space>,
    size: usize,
    shared: Arc<Shared>,
    /// Whether it began with the image.
    is_guests: bool,
}

// SAFETY: what is reserved lies between guards and stays where it is; the engine is told no more than may be
// accessed, a memory that was put back holds what a new one does, and one that could not be is never used again.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _type: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        // The engine's own heap has another size, and no image.
        let is_guests = minimum == self.0.image.len();
        let reserved = reserved.unwrap_or(minimum).max(minimum);
        let waiting = is_guests.then(|| self.0.waiting().pop()).flatten();
        let space = match waiting {
            Some(space) if space.capacity() >= reserved => space,
            _ => {
                let image = is_guests.then(|| Arc::clone(&self.0.image));
                let mut space = Space::new(image, minimum, reserved, guard)
                    .map_err(|error| format!("a linear memory: {error}"))?;
                if is_guests {
                    space.populate(&self.0.hot);
                }
                space
            }
        };
        Ok(Box::new(Given {
            space: Some(space),
            size: minimum,
            shared: Arc::clone(&self.0),
            is_guests,
        }))
    }
}

impl Given {
    fn space(&self) -> &Space {
        match &self.space {
            Some(space) => space,
            None => unreachable!("it is taken only when this is dropped"),
        }
    }
}

// SAFETY: as above; the address does not change while this lives.
unsafe impl LinearMemory for Given {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.space().capacity()
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        if let Some(space) = &mut self.space {
            space.grow_to(size.max(space.len()))?;
        }
        self.size = size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.space().as_ptr()
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let Some(mut space) = self.space.take().filter(|_| self.is_guests) else {
            return;
        };
        let mut waiting = self.shared.waiting();
        if waiting.len() >= WAIT {
            return;
        }
        // One that cannot be put back is unmapped.
        let Ok(all_mapped) = space.reset() else {
            return;
        };
        if !all_mapped {
            space.populate(&self.shared.hot);
        }
        waiting.push(space);
    }
}
